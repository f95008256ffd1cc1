//! Which key it is: a PKCS#11 URI as RFC 7512 writes them.

use std::path::PathBuf;
use std::str::FromStr;

/// What every address begins with.
const SCHEME: &str = "pkcs11:";

/// `pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=FILE`. The token may be named by `serial` or `slot-id` as well,
/// the key by `id`; each attribute at most once, bytes that URIs have other uses for as `%20`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAddress {
    /// The module's file.
    pub(super) module: PathBuf,
    /// The file that holds the PIN.
    pub(super) pin: PathBuf,
    /// Label of the token.
    pub(super) token: Option<String>,
    /// Serial number of the token.
    pub(super) serial: Option<String>,
    /// Number of the slot that the token is in.
    pub(super) slot: Option<u64>,
    /// Label of the key.
    pub(super) object: Option<String>,
    /// Id of the key.
    pub(super) id: Option<Vec<u8>>,
}

/// Why a text is no address of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another kind of text.
    #[error("a key in a token is named by pkcs11:token=…;object=…?module-path=…&pin-source=…")]
    Scheme,
    /// An attribute that is not known here.
    #[error(
        "{name:?} is not understood: token, serial, slot-id, object, id and type=secret-key stand before the question mark, \
         module-path and pin-source behind it"
    )]
    Attribute {
        /// Its name.
        name: String,
    },
    /// The PIN itself.
    #[error("a PIN does not belong into the configuration: write it to a file and name that by pin-source")]
    Pin,
    /// A value that cannot be read.
    #[error("the value of {name} cannot be read, or is given twice")]
    Value {
        /// Whose.
        name: String,
    },
    /// Something is not said.
    #[error("the address does not say {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
}

impl KeyAddress {
    /// Whether `text` is meant as one.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME)
    }
}

impl FromStr for KeyAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix(SCHEME).ok_or(AddressError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let [mut token, mut serial, mut slot, mut object, mut kind] = [const { None::<String> }; 5];
        let mut id = None;
        for (name, value) in attributes(path, ';') {
            match name {
                "token" => set(&mut token, name, value, text_of)?,
                "serial" => set(&mut serial, name, value, text_of)?,
                "slot-id" => set(&mut slot, name, value, text_of)?,
                "object" => set(&mut object, name, value, text_of)?,
                "id" => set(&mut id, name, value, bytes_of)?,
                "type" if value == "secret-key" => set(&mut kind, name, value, text_of)?,
                _ => return Err(AddressError::Attribute { name: name.to_owned() }),
            }
        }
        let [mut module, mut pin] = [const { None::<String> }; 2];
        for (name, value) in attributes(query, '&') {
            match name {
                "module-path" => set(&mut module, name, value, text_of)?,
                "pin-source" => set(&mut pin, name, value, text_of)?,
                "pin-value" => return Err(AddressError::Pin),
                _ => return Err(AddressError::Attribute { name: name.to_owned() }),
            }
        }
        let slot = slot.map(|slot| slot.parse().map_err(|_| AddressError::Value { name: "slot-id".into() }));
        let slot = slot.transpose()?;
        if token.is_none() && serial.is_none() && slot.is_none() {
            return Err(AddressError::Missing { what: "which token: token=, serial= or slot-id=" });
        }
        if object.is_none() && id.is_none() {
            return Err(AddressError::Missing { what: "which key: object= or id=" });
        }
        let module =
            module.ok_or(AddressError::Missing { what: "where the token's module is: module-path=" })?;
        let pin = pin.ok_or(AddressError::Missing { what: "which file holds the PIN: pin-source=" })?;
        let pin = PathBuf::from(pin.strip_prefix("file:").unwrap_or(&pin));
        Ok(Self { module: PathBuf::from(module), pin, token, serial, slot, object, id })
    }
}

fn attributes(text: &str, between: char) -> impl Iterator<Item = (&str, &str)> {
    let all = text.split(between).filter(|one| !one.is_empty());
    all.map(|one| one.split_once('=').unwrap_or((one, "")))
}

/// Reads a value that is there at most once and is not empty.
fn set<T>(
    to: &mut Option<T>,
    name: &str,
    value: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<(), AddressError> {
    let wrong = || AddressError::Value { name: name.to_owned() };
    let value = Some(value).filter(|value| !value.is_empty()).and_then(read).ok_or_else(wrong)?;
    if to.replace(value).is_some() { Err(wrong()) } else { Ok(()) }
}

fn text_of(value: &str) -> Option<String> {
    String::from_utf8(bytes_of(value)?).ok()
}

fn bytes_of(value: &str) -> Option<Vec<u8>> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.extend(hex::decode(digits).ok()?);
        bytes.extend(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "?module-path=/lib/m.so&pin-source=file:/etc/pin";

    fn read(text: &str) -> Result<KeyAddress, AddressError> {
        format!("pkcs11:{text}").parse()
    }

    #[test]
    fn every_part_of_an_address_is_read() {
        let all = "token=my%20token;serial=07;slot-id=3;object=kek%3b1;id=%01%ff;type=secret-key";
        let expected = KeyAddress {
            module: "/lib/m.so".into(),
            pin: "/etc/pin".into(),
            token: Some("my token".into()),
            serial: Some("07".into()),
            slot: Some(3),
            object: Some("kek;1".into()),
            id: Some(vec![1, 255]),
        };
        assert_eq!(read(&format!("{all}{REST}")), Ok(expected));
    }

    #[test]
    fn what_an_address_lacks_is_named() {
        let missing = |text: &str| match read(text) {
            Err(AddressError::Missing { what }) => what.split(':').next().map(str::to_owned),
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(&format!("object=a{REST}")).as_deref(), Some("which token"));
        assert_eq!(missing(&format!("token=a{REST}")).as_deref(), Some("which key"));
        assert_eq!(missing("token=a;object=b?pin-source=/p").as_deref(), Some("where the token's module is"));
        assert_eq!(missing("token=a;object=b?module-path=/m").as_deref(), Some("which file holds the PIN"));
    }

    #[test]
    fn a_pin_in_the_configuration_is_refused() {
        assert_eq!(read("token=a;object=b?pin-value=1234"), Err(AddressError::Pin));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let twice = AddressError::Value { name: "token".to_owned() };
        assert_eq!(read(&format!("token=a;token=b;object=c{REST}")), Err(twice.clone()));
        assert_eq!(read(&format!("token=%zz;object=c{REST}")), Err(twice.clone()));
        assert_eq!(read(&format!("token=;object=c{REST}")), Err(twice));
        let other = AddressError::Attribute { name: "tokne".to_owned() };
        assert_eq!(read(&format!("tokne=a;object=c{REST}")), Err(other));
        assert_eq!("/etc/kek".parse::<KeyAddress>(), Err(AddressError::Scheme));
    }
}
