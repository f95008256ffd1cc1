//! What is asked of registries that are servers of this process, and what they are shown.

// The tests of the commands have it too.
#[path = "../../tests/served/request.rs"]
mod request;
#[path = "../../tests/served/server.rs"]
mod server;

use super::credentials::Credentials;
use super::exchange::Transport;
use super::repository::{Repository, parameter};
use coffer_image::artefact::Digest;
use request::Answered;
use server::Server;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn empty(status: u16) -> Answered {
    (status, Vec::new(), Vec::new())
}

/// What comes of `ask` in the repository `a` of `registry`, with a password for it, where `plain` may be asked without TLS.
fn asked<T>(registry: &str, plain: &[&str], ask: impl FnOnce(&Repository<'_>) -> T) -> T {
    let config = serde_json::json!({"auths": {registry: {"auth": "c2VjcmV0"}}}).to_string();
    let credentials: Credentials = serde_json::from_str(&config).expect("a configuration");
    let plain = plain.iter().map(|host| (*host).to_owned()).collect();
    let transport = Transport::new(None, plain, None).expect("a transport");
    ask(&Repository::new(&transport, credentials.of(registry), registry, "a"))
}

/// Wants the password, and then answers with what `then` makes of what is asked.
fn guarded(then: impl Fn(&str) -> Answered + Send + 'static) -> Server {
    Server::new(move |asked, shown| match shown {
        Some(_) => then(asked),
        None => (401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], Vec::new()),
    })
}

/// Wants to see something of everybody.
fn curious() -> Server {
    Server::new(|_, _| (401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], Vec::new()))
}

#[test]
fn parameters_of_a_challenge_are_found() {
    let text = r#"realm="https://auth.example.com/token",service="r",scope="repository:a/b:pull,push""#;
    assert_eq!(parameter(text, "scope").as_deref(), Some("repository:a/b:pull,push"));
    assert_eq!(parameter(text, "error"), None);
}

#[test]
fn a_registry_that_shows_no_list_has_it_under_a_tag_and_one_that_fails_has_none() {
    let digest = Digest::of(b"image");
    let list = |what: u16, kind: &'static str| {
        let server = Server::new(move |asked, _| match asked.contains("/referrers/") {
            true => (what, vec![("content-type", kind.to_owned())], b"<html>".to_vec()),
            false => (200, Vec::new(), r#"{"schemaVersion": 2, "manifests": []}"#.into()),
        });
        let listed =
            asked(&server.address, &[&server.address], |it| it.referrers(&digest).map(|all| all.len()).ok());
        (listed, server.heard().len())
    };
    assert_eq!([list(404, "text/html"), list(200, "text/html")], [(Some(0), 2); 2]);
    for status in [400, 403, 429, 500, 503] {
        assert_eq!(list(status, INDEX), (None, 1), "{status}");
    }
}

#[test]
fn where_a_blob_is_read_elsewhere_nothing_is_shown_even_if_asked_for() {
    let other = curious();
    let place = format!("http://{}/blob", other.address);
    let registry = guarded(move |_| (307, vec![("location", place.clone())], Vec::new()));
    let read = asked(&registry.address, &["127.0.0.1"], |it| it.blob(&Digest::of(b"blob"), 100));
    assert!(read.expect_err("not read").to_string().contains("answers 401"));
    assert_eq!(other.heard(), ["GET /blob -"]);
}

#[test]
fn who_is_sent_on_within_a_registry_still_shows_what_opened_it() {
    let registry = guarded(|asked| match asked {
        "GET /blob" => (200, Vec::new(), b"blob".to_vec()),
        _ => (307, vec![("location", "/blob".to_owned())], Vec::new()),
    });
    let read = asked(&registry.address, &["127.0.0.1"], |it| it.blob(&Digest::of(b"blob"), 100));
    assert_eq!(read.expect("read"), b"blob");
}

#[test]
fn an_upload_to_another_authority_shows_nothing() {
    let other = curious();
    let place = format!("http://{}/upload", other.address);
    let registry = guarded(move |asked| match asked.starts_with("HEAD") {
        true => empty(404),
        false => (202, vec![("location", place.clone())], Vec::new()),
    });
    let put = asked(&registry.address, &["127.0.0.1"], |it| it.put_blob(b"blob"));
    assert!(put.is_err());
    let heard = other.heard();
    assert!(heard.len() == 1 && heard[0].starts_with("PUT /upload?digest=") && heard[0].ends_with(" -"));
    assert!(registry.heard().iter().any(|line| line.ends_with(" Basic c2VjcmV0")));
}

#[test]
fn a_server_of_tokens_is_asked_without_tls_only_if_it_was_named() {
    let run = |name_it: bool| {
        let tokens = Server::new(|_, _| (200, Vec::new(), r#"{"token": "t"}"#.into()));
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address);
        let registry = Server::new(move |_, shown| match shown {
            Some("Bearer t") => empty(404),
            _ => (401, vec![("www-authenticate", realm.clone())], Vec::new()),
        });
        let plain = if name_it { "127.0.0.1" } else { registry.address.as_str() };
        let read = asked(&registry.address, &[plain], |it| it.manifest("v1").map(|found| found.is_none()));
        (read.map_err(|error| format!("{error:#}")), tokens.heard())
    };
    assert_eq!(run(true), (Ok(true), vec!["GET /token?service=s Basic c2VjcmV0".to_owned()]));
    let (refused, heard) = run(false);
    assert!(refused.expect_err("refused").contains("without TLS") && heard.is_empty());
}

#[test]
fn referrers_that_are_no_index_are_not_written_over() {
    for odd in ["[]", "\"text\"", "{\"manifests\": 1}"] {
        let server = Server::new(move |_, _| (200, Vec::new(), odd.into()));
        let entry = serde_json::json!({"digest": "x"});
        let written = asked(&server.address, &["127.0.0.1"], |it| it.refer_by_tag(&Digest::of(b"i"), &entry));
        assert!(written.is_err() && server.heard().len() == 1, "{odd}");
    }
}
