//! Finding a key in a token, and having the token compute with it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::address::KeyAddress;
use super::module::{Generation, Module};

const IV_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
const KEY_BYTES: usize = 32;

/// A session in which the key can be used.
pub(super) struct Token {
    module: Arc<Module>,
    /// Of the module: in another one the session and the key are others.
    generation: u64,
    /// Given back when this is dropped.
    session: Option<Session>,
    key: ObjectHandle,
    token: String,
    label: Vec<u8>,
    id: Vec<u8>,
}

/// Why a key in a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The library.
    #[error("the PKCS#11 module {module:?} cannot be used: {reason}; install it or correct module-path")]
    Module {
        /// Its file.
        module: PathBuf,
        /// What the loader or the module said.
        reason: String,
    },
    /// No such token, or several.
    #[error("one token is wanted with {asked}, the module has {found}; correct token, serial or slot-id")]
    Token {
        /// How it was named.
        asked: String,
        /// Those that are there.
        found: String,
    },
    /// The file with the PIN.
    #[error("the file {path:?} that is to hold the token's PIN cannot be read: {reason}")]
    PinFile {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The token does not take the PIN.
    #[error(
        "the token {token:?} refuses the PIN of {path:?} ({reason}); correct the file and send SIGHUP: it is not tried again \
         by itself, because tokens lock themselves"
    )]
    Pin {
        /// Its label.
        token: String,
        /// The file.
        path: PathBuf,
        /// What the token said.
        reason: String,
    },
    /// No such key, or several.
    #[error(
        "one AES key with {asked} is wanted in the token {token:?}, there are {found}; correct object or id, or make \
         one with `coffer-verifier make-key`"
    )]
    Key {
        /// Label of the token.
        token: String,
        /// How it was named.
        asked: String,
        /// How many there are.
        found: usize,
    },
    /// The key is not what it must be.
    #[error("the key with {asked} in the token {token:?} {what}; make another one")]
    Unfit {
        /// Label of the token.
        token: String,
        /// How it was named.
        asked: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The token cannot compute what is needed.
    #[error("the token {token:?} does not offer CKM_AES_GCM to this key ({reason}); use a token that does")]
    Mechanism {
        /// Label of the token.
        token: String,
        /// What the token said.
        reason: String,
    },
    /// Not what the key made.
    #[error("the key in the token {token:?} does not open this")]
    NotOpened {
        /// Label of the token.
        token: String,
    },
    /// Something else that the token said.
    #[error("the token of {module:?} failed: {reason}")]
    Failed {
        /// The module.
        module: PathBuf,
        /// What it said.
        reason: String,
    },
    /// It did not answer, or too many wait for it already.
    #[error("the token of {module:?} has not answered in {milliseconds} ms, or too many wait for it")]
    Slow {
        /// The module.
        module: PathBuf,
        /// How long it was waited for.
        milliseconds: u64,
    },
    /// A key of these names is there already.
    #[error("the token {token:?} has a key with {asked} already; give the new one another name")]
    Taken {
        /// Label of the token.
        token: String,
        /// How it was named.
        asked: String,
    },
    /// No randomness or no thread here.
    #[error("this machine cannot serve the token now: {reason}")]
    Here {
        /// What the system said.
        reason: String,
    },
}

/// Makes a key that the token never gives out, if there is none of these names.
///
/// # Errors
/// [`HsmError`]
pub fn make_key(address: &KeyAddress) -> Result<(), HsmError> {
    let failed = |error: Error| failed(address, &error);
    let module = Module::load(&address.module)?;
    let _generation = module.generation();
    let module = &module.context;
    let (slot, token) = slot(module, address)?;
    let session = module.open_rw_session(slot).map_err(failed)?;
    log_in(&session, address, &token)?;
    let there = session.find_objects(&names(address)).map_err(failed)?.len();
    if there != 0 {
        return Err(HsmError::Taken { token, asked: asked_of_key(address) });
    }
    let yes =
        [Attribute::Token, Attribute::Private, Attribute::Sensitive, Attribute::Encrypt, Attribute::Decrypt];
    let no = [Attribute::Extractable, Attribute::Wrap, Attribute::Unwrap, Attribute::Derive, Attribute::Sign];
    let yes = yes.map(|attribute| attribute(true));
    let no = no.map(|attribute| attribute(false));
    let length = Attribute::ValueLen((KEY_BYTES as u64).into());
    let template: Vec<Attribute> = names(address).into_iter().chain(yes).chain(no).chain([length]).collect();
    // The kind of key is said by the mechanism.
    let template: Vec<Attribute> = template
        .into_iter()
        .filter(|one| !matches!(one, Attribute::Class(_) | Attribute::KeyType(_)))
        .collect();
    session.generate_key(&Mechanism::AesKeyGen, &template).map(|_| ()).map_err(failed)
}

impl Token {
    /// Loads the module, finds the token, logs in, and finds the key.
    pub(super) fn open(address: &KeyAddress) -> Result<Self, HsmError> {
        Self::open_in(&Module::load(&address.module)?, address)
    }

    /// The same for a key that was there before: if it is not found the module begins anew, and what is wrong then is wrong.
    pub(super) fn open_again(address: &KeyAddress) -> Result<Self, HsmError> {
        let module = Module::load(&address.module)?;
        match Self::open_in(&module, address) {
            Err(HsmError::Failed { .. } | HsmError::Token { .. } | HsmError::Key { .. }) => {
                module.begin_anew();
                Self::open_in(&module, address)
            }
            opened => opened,
        }
    }

    fn open_in(module: &Arc<Module>, address: &KeyAddress) -> Result<Self, HsmError> {
        let failed = |error: Error| failed(address, &error);
        let generation = module.generation();
        let (slot, token) = slot(&module.context, address)?;
        let offered = module.context.get_mechanism_list(slot).map_err(failed)?;
        if !offered.contains(&MechanismType::AES_GCM) {
            return Err(HsmError::Mechanism { token, reason: "not in its list of mechanisms".to_owned() });
        }
        // Closed by `Drop`, which knows of generations.
        let session = module.context.open_ro_session_no_drop(slot).map_err(failed)?;
        let found = log_in(&session, address, &token).and_then(|()| key(&session, address, &token));
        match found {
            Ok((key, label, id)) => {
                let (module, generation) = (module.clone(), *generation);
                Ok(Self { module, generation, session: Some(session), key, token, label, id })
            }
            Err(error) => {
                // A session that cannot be closed is none.
                let _ = session.close();
                Err(error)
            }
        }
    }

    /// The session, as long as it is one.
    fn session(&self, address: &KeyAddress) -> Result<(&Session, Generation<'_>), HsmError> {
        let generation = self.module.generation();
        match &self.session {
            Some(session) if *generation == self.generation => Ok((session, generation)),
            _ => {
                let reason = "the session is over".to_owned();
                Err(HsmError::Failed { module: address.module.clone(), reason })
            }
        }
    }

    /// Label of the token, label of the key, id of the key: what the key is known by.
    pub(super) fn names(&self) -> [&[u8]; 3] {
        [self.token.as_bytes(), &self.label, &self.id]
    }

    /// IV ‖ ciphertext ‖ tag.
    pub(super) fn seal(&self, address: &KeyAddress, plain: &[u8], aad: &[u8]) -> Result<Vec<u8>, HsmError> {
        let (session, _generation) = self.session(address)?;
        let mut iv = [0; IV_BYTES];
        getrandom::fill(&mut iv).map_err(|error| HsmError::Here { reason: error.to_string() })?;
        let sealed = {
            let params =
                GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(|error| failed(address, &error))?;
            session.encrypt(&Mechanism::AesGcm(params), self.key, plain)
        };
        // Some tokens choose the IV themselves and write it where ours was.
        Ok([iv.to_vec(), sealed.map_err(|error| self.refused(address, &error))?].concat())
    }

    /// What [`Token::seal`] made, opened.
    pub(super) fn open_sealed(
        &self,
        address: &KeyAddress,
        sealed: &[u8],
        aad: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let (session, _generation) = self.session(address)?;
        let not_opened = || HsmError::NotOpened { token: self.token.clone() };
        let (iv, both) = sealed.split_first_chunk::<IV_BYTES>().ok_or_else(not_opened)?;
        let mut iv = *iv;
        let params =
            GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(|error| failed(address, &error))?;
        let opened = session.decrypt(&Mechanism::AesGcm(params), self.key, both);
        opened.map(Zeroizing::new).map_err(|error| self.refused(address, &error))
    }

    fn refused(&self, address: &KeyAddress, error: &Error) -> HsmError {
        let token = self.token.clone();
        match error {
            Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _) => {
                HsmError::NotOpened { token }
            }
            Error::Pkcs11(
                RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::KeyFunctionNotPermitted
                | RvError::KeyTypeInconsistent,
                _,
            ) => HsmError::Mechanism { token, reason: said(error) },
            _ => failed(address, error),
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let generation = self.module.generation();
        // In another generation its number may be somebody else's.
        if let Some(session) = self.session.take()
            && *generation == self.generation
        {
            let _ = session.close();
        }
    }
}

fn failed(address: &KeyAddress, error: &Error) -> HsmError {
    HsmError::Failed { module: address.module.clone(), reason: said(error) }
}

/// A function of the module with what it answered, or what went wrong before.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(answer, function) => format!("C_{function:?} answers {answer:?}"),
        other => other.to_string(),
    }
}

/// The one slot whose token is meant, and the token's label.
fn slot(module: &Pkcs11, address: &KeyAddress) -> Result<(Slot, String), HsmError> {
    let (mut fitting, mut found) = (Vec::new(), Vec::new());
    for slot in module.get_slots_with_initialized_token().map_err(|error| failed(address, &error))? {
        let info = module.get_token_info(slot).map_err(|error| failed(address, &error))?;
        let (label, serial) = (info.label().to_owned(), info.serial_number().to_owned());
        found.push(format!("token={label:?} serial={serial:?} slot-id={}", slot.id()));
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let in_slot = address.slot.is_none_or(|wanted| wanted == slot.id());
        if is(&address.token, &label) && is(&address.serial, &serial) && in_slot {
            fitting.push((slot, label));
        }
    }
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => {
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(HsmError::Token { asked: asked_of_token(address), found })
        }
    }
}

fn asked_of_token(address: &KeyAddress) -> String {
    let token = address.token.as_ref().map(|label| format!("token={label:?}"));
    let serial = address.serial.as_ref().map(|serial| format!("serial={serial:?}"));
    let slot = address.slot.map(|slot| format!("slot-id={slot}"));
    [token, serial, slot].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn asked_of_key(address: &KeyAddress) -> String {
    let object = address.object.as_ref().map(|label| format!("object={label:?}"));
    let id = address.id.as_ref().map(|id| format!("id={}", hex::encode(id)));
    [object, id].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn log_in(session: &Session, address: &KeyAddress, token: &str) -> Result<(), HsmError> {
    let wrong = |reason: String| HsmError::PinFile { path: address.pin.clone(), reason };
    let bytes = Zeroizing::new(fs::read(&address.pin).map_err(|error| wrong(error.to_string()))?);
    let text = str::from_utf8(&bytes).map_err(|_| wrong("it is not text".to_owned()))?;
    let pin = AuthPin::new(text.trim_end_matches(['\n', '\r']).into());
    match session.login(UserType::User, Some(&pin)) {
        // One login is for all sessions of a process.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(match &error {
            Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinLocked
                | RvError::PinExpired
                | RvError::UserPinNotInitialized,
                _,
            ) => HsmError::Pin { token: token.to_owned(), path: address.pin.clone(), reason: said(&error) },
            _ => failed(address, &error),
        }),
    }
}

/// By what the key is found.
fn names(address: &KeyAddress) -> Vec<Attribute> {
    let label = address.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes()));
    let id = address.id.as_ref().map(|id| Attribute::Id(id.clone()));
    let kind = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
    kind.into_iter().chain(label).chain(id).collect()
}

/// The one key that is meant, and its names. It must be one that the token does not give out.
fn key(
    session: &Session,
    address: &KeyAddress,
    token: &str,
) -> Result<(ObjectHandle, Vec<u8>, Vec<u8>), HsmError> {
    let found = session.find_objects(&names(address)).map_err(|error| failed(address, &error))?;
    let [key] = found.as_slice() else {
        let (token, asked, found) = (token.to_owned(), asked_of_key(address), found.len());
        return Err(HsmError::Key { token, asked, found });
    };
    let asked = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::ValueLen,
        AttributeType::Label,
        AttributeType::Id,
    ];
    let found = session.get_attributes(*key, &asked).map_err(|error| failed(address, &error))?;
    if let Some(what) = unfit(&found) {
        return Err(HsmError::Unfit { token: token.to_owned(), asked: asked_of_key(address), what });
    }
    let label = found.iter().find_map(|one| match one {
        Attribute::Label(label) => Some(label.clone()),
        _ => None,
    });
    let id = found.iter().find_map(|one| match one {
        Attribute::Id(id) => Some(id.clone()),
        _ => None,
    });
    Ok((*key, label.unwrap_or_default(), id.unwrap_or_default()))
}

/// What is wrong with a key of these attributes. What a token does not say counts as wrong.
fn unfit(found: &[Attribute]) -> Option<&'static str> {
    if !found.contains(&Attribute::Sensitive(true)) || !found.contains(&Attribute::Extractable(false)) {
        return Some("can be taken out of it (it must be sensitive and not extractable)");
    }
    let long = found.contains(&Attribute::ValueLen((KEY_BYTES as u64).into()));
    (!long).then_some("is none of 256 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sensitive: bool, extractable: bool, length: u64) -> [Attribute; 3] {
        let length = Attribute::ValueLen(length.into());
        [Attribute::Sensitive(sensitive), Attribute::Extractable(extractable), length]
    }

    #[test]
    fn a_key_that_could_be_taken_out_is_unfit() {
        assert_eq!(unfit(&of(true, false, 32)), None);
        let open = Some("can be taken out of it (it must be sensitive and not extractable)");
        assert_eq!([unfit(&of(true, true, 32)), unfit(&of(false, false, 32)), unfit(&[])], [open; 3]);
        assert_eq!(unfit(&of(true, false, 16)), Some("is none of 256 bits"));
    }
}
