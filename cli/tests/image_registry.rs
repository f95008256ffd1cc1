//! `coffer image` beside a registry (Debian's docker-registry, without the referrers API), with cosign's word on what we signed.
//! All of it runs in a network namespace that has nothing but its own loopback.

// One oracle for all: it knows nothing of what is asked there.
#[path = "../../agent/image/tests/matrix/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coffer_image::artefact::Digest;
use coffer_node::images::Layout;
use serde_json::{Value, json};

use oracle::{HOST, Oracle, Said, file, on_registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Puts an image under the tag v1 into a repository of the registry that is not running yet. Answers its digest.
fn put_image(root: &Path, repository: &str) -> Digest {
    let place = root.join("docker/registry/v2");
    let config =
        br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let kind = "application/vnd.oci.image.config.v1+json";
    let pointer = json!({"mediaType": kind, "digest": Digest::of(config), "size": config.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": pointer, "layers": [], "annotations": {"of": repository},
    })
    .to_string();
    let digest = Digest::of(manifest.as_bytes());
    let files = place.join("repositories").join(repository);
    let write = |path: std::path::PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("written");
    };
    for bytes in [&config[..], manifest.as_bytes()] {
        let hex = Digest::of(bytes).hex();
        write(place.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data"), bytes);
    }
    let link = |at: String, to: &Digest| write(files.join(at).join("link"), to.to_string().as_bytes());
    link(format!("_layers/sha256/{}", Digest::of(config).hex()), &Digest::of(config));
    link(format!("_manifests/revisions/sha256/{}", digest.hex()), &digest);
    link("_manifests/tags/v1/current".to_owned(), &digest);
    digest
}

fn coffer(line: &str) -> Vec<String> {
    let words = line.split(' ').map(str::to_owned);
    [env!("CARGO_BIN_EXE_coffer").to_owned(), "image".to_owned()].into_iter().chain(words).collect()
}

fn named(name: &str, command: Vec<String>) -> (String, Vec<String>) {
    (name.to_owned(), command)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn policy(oracle: &Oracle, key: &str) {
    let identity = json!({"type": "matchDigest"});
    let requirement = json!({"type": "sigstoreSigned", "keyPath": key, "signedIdentity": identity});
    file(oracle.directory.path(), "policy.json", json!({"default": [requirement]}).to_string());
}

/// The commands that did not end well, and the last line of each.
fn failed(said: &BTreeMap<String, Said>) -> Vec<(&str, &str)> {
    said.iter()
        .filter(|(_, said)| !said.well)
        .map(|(name, said)| (name.as_str(), said.last.as_str()))
        .collect()
}

#[test]
fn what_we_sign_in_a_registry_cosign_verifies_and_a_node_fetches() {
    let Some(oracle) = Oracle::new() else { return };
    policy(&oracle, "one.pub");
    let digests = ["new", "old"].map(|name| put_image(&oracle.registry(), name));
    let mut commands = vec![named("keys", words("cosign generate-key-pair --output-key-prefix one"))];
    for (name, option) in [("new", ""), ("old", " --tag-scheme")] {
        let image = format!("docker://{HOST}/{name}:v1 --insecure-plain-http {HOST}");
        let ours = |what: &str, rest: &str| {
            named(&format!("{what}-{name}"), coffer(&format!("{what} {image}{rest}")))
        };
        let mut before = ours("verify", " --policy policy.json");
        before.0 = format!("unsigned-{name}");
        let mut theirs = on_registry(&["cosign", "verify"], &format!("{HOST}/{name}:v1"));
        theirs.extend(words("--key one.pub --insecure-ignore-tlog"));
        commands.extend([
            before,
            ours("sign", &format!(" --key one.key{option}")),
            ours("verify", " --policy policy.json"),
            ours("inspect", ""),
            ours("fetch", " --store store"),
            named(&format!("cosign-{name}"), theirs),
        ]);
    }
    let said = oracle.run(&commands);
    let failed: Vec<&str> = failed(&said).into_iter().map(|(name, _)| name).collect();
    assert_eq!(failed, ["unsigned-new", "unsigned-old"], "{said:#?}");
    for digest in digests {
        let place = oracle.directory.path().join("store").join(digest.referrers_tag());
        assert_eq!(Layout::open(&place).expect("a directory").all().expect("readable").len(), 1);
    }
}

#[test]
fn cosign_verifies_what_we_sign_with_each_kind_of_key() {
    let Some(oracle) = Oracle::new() else { return };
    let kinds = [
        ("p256", "EC -pkeyopt ec_paramgen_curve:P-256"),
        ("p384", "EC -pkeyopt ec_paramgen_curve:P-384"),
        ("ed25519", "ED25519"),
        ("rsa", "RSA -pkeyopt rsa_keygen_bits:3072"),
    ];
    let mut commands = Vec::new();
    for (kind, options) in kinds {
        commands.push(named(
            &format!("key-{kind}"),
            words(&format!("openssl genpkey -algorithm {options} -out {kind}.pem")),
        ));
        commands.push(named(
            &format!("public-{kind}"),
            words(&format!("openssl pkey -in {kind}.pem -pubout -out {kind}.pub")),
        ));
        for (scheme, option) in [("new", ""), ("old", " --tag-scheme")] {
            let repository = format!("{kind}-{scheme}");
            put_image(&oracle.registry(), &repository);
            let line = format!(
                "sign docker://{HOST}/{repository}:v1 --insecure-plain-http {HOST} --key {kind}.pem{option}"
            );
            commands.push(named(&format!("sign-{repository}"), coffer(&line)));
            let mut theirs = on_registry(&["cosign", "verify"], &format!("{HOST}/{repository}:v1"));
            theirs.extend(words(&format!("--key {kind}.pub --insecure-ignore-tlog")));
            commands.push(named(&format!("cosign-{repository}"), theirs));
        }
    }
    let said = oracle.run(&commands);
    assert_eq!(failed(&said), []);
}

#[test]
fn a_second_signature_in_a_registry_leaves_the_first_one_there() {
    let Some(oracle) = Oracle::new() else { return };
    put_image(&oracle.registry(), "two");
    let image = format!("docker://{HOST}/two:v1 --insecure-plain-http {HOST}");
    let commands = [
        named("one", words("openssl genpkey -algorithm ED25519 -out one.pem")),
        named("two", words("openssl genpkey -algorithm ED25519 -out two.pem")),
        named("sign-one", coffer(&format!("sign {image} --key one.pem"))),
        named("sign-two", coffer(&format!("sign {image} --key two.pem"))),
        named("sign-old-one", coffer(&format!("sign {image} --tag-scheme --key one.pem"))),
        named("sign-old-two", coffer(&format!("sign {image} --tag-scheme --key two.pem"))),
        named("fetch", coffer(&format!("fetch {image} --store store --json"))),
        named("inspect", coffer(&format!("inspect {image} --json"))),
    ];
    let said = oracle.run(&commands);
    assert_eq!(failed(&said), []);
    let store =
        fs::read_dir(oracle.directory.path().join("store")).expect("a store").next().expect("an image");
    let layout = Layout::open(&store.expect("a folder").path()).expect("a directory");
    let all = layout.all().expect("readable");
    let counted = all.iter().map(|stored| match &stored.document {
        coffer_image::artefact::Document::Manifest(manifest) => manifest.layers.len(),
        coffer_image::artefact::Document::Index(_) => 0,
    });
    assert_eq!((all.len(), counted.sum::<usize>()), (3, 4));
}

#[test]
fn a_mirror_is_read_first_and_the_image_keeps_its_name() {
    let Some(oracle) = Oracle::new() else { return };
    let digest = put_image(&oracle.registry(), "mirrored/app");
    let allowed = json!({"default": [{"type": "reject"}], "transports": {"docker": {"origin.example.com/up": [{"type": "insecureAcceptAnything"}]}}});
    file(oracle.directory.path(), "policy.json", allowed.to_string());
    let rest = format!("--insecure-plain-http {HOST} --policy policy.json --json");
    let from = format!("--mirror origin.example.com/up={HOST}/mirrored");
    let other = format!("--mirror origin.example.com/u={HOST}/mirrored");
    let commands = [
        named("mirrored", coffer(&format!("verify docker://origin.example.com/up/app:v1 {from} {rest}"))),
        named(
            "not-this-one",
            coffer(&format!("verify docker://origin.example.com/up/app:v1 {other} {rest}")),
        ),
        named("without-tls", coffer(&format!("verify docker://{HOST}/mirrored/app:v1 --policy policy.json"))),
        named(
            "by-digest",
            coffer(&format!("inspect docker://{HOST}/mirrored/app@{digest} --insecure-plain-http {HOST}")),
        ),
    ];
    let said = oracle.run(&commands);
    let found: Vec<(&str, bool)> = said.iter().map(|(name, said)| (name.as_str(), said.well)).collect();
    let wanted = [("by-digest", true), ("mirrored", true), ("not-this-one", false), ("without-tls", false)];
    assert_eq!(found, wanted, "{said:#?}");
}

#[test]
fn containerds_verifier_lets_what_the_policy_admits_be_pulled_and_fetches_its_signatures() {
    let Some(oracle) = Oracle::new() else { return };
    let place = oracle.directory.path();
    policy(&oracle, "one.pub");
    let digests = ["signed", "unsigned"].map(|name| put_image(&oracle.registry(), name));
    let [node, guests] = [format!("policy = \"{}/policy.json\"\n", place.display()), String::new()];
    for (name, policy) in [("node", node), ("guests", guests)] {
        let table = format!("[image]\n{policy}signatures = \"{}/{name}\"\n", place.display());
        file(place, &format!("{name}.toml"), table);
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffer"), place.join("coffer-image-verifier"))
        .expect("a link");
    let pull = |config: &str, image: usize| {
        let name = ["signed", "unsigned"][image];
        let line = format!(
            "env COFFER_REGISTRY_PLAIN_HTTP=other.example.com,{HOST} COFFER_CONFIG={config}.toml ./coffer-image-verifier \
             -name {HOST}/{name}:v1 -digest {} -stdin-media-type application/vnd.oci.descriptor.v1+json",
            digests[image]
        );
        named(&format!("{config}-{name}"), words(&line))
    };
    let image = format!("docker://{HOST}/signed:v1 --insecure-plain-http {HOST}");
    let commands = [
        named("key", words("openssl genpkey -algorithm ED25519 -out one.pem")),
        named("public", words("openssl pkey -in one.pem -pubout -out one.pub")),
        named("sign", coffer(&format!("sign {image} --key one.pem"))),
        pull("node", 0),
        pull("node", 1),
        pull("guests", 0),
        pull("guests", 1),
    ];
    let said = oracle.run(&commands);
    assert_eq!(
        failed(&said).iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["node-unsigned"],
        "{said:#?}"
    );
    assert!(said["node-unsigned"].last.contains("is refused by /default/0"), "{said:#?}");
    for store in ["node", "guests"] {
        let layout = Layout::open(&place.join(store).join(digests[0].referrers_tag())).expect("a directory");
        assert_eq!(layout.all().expect("readable").len(), 1);
    }
}

/// Two more registries with the same files: one with TLS and a password, one that sends readers elsewhere for a token. Runs its
/// arguments beside them.
const GUARDED: &str = r#"
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca 2> /dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=registry 2> /dev/null
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > tls.ext
openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile tls.ext -out tls.pem 2> /dev/null
# The password is "secret".
echo 'user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a' > htpasswd
common="version: 0.1\nstorage: {filesystem: {rootdirectory: $PWD/registry}}\nhttp:\n  addr: 127.0.0.1"
printf "$common:5001\n  tls: {certificate: $PWD/tls.pem, key: $PWD/tls.key}\nauth: {htpasswd: {realm: r, path: $PWD/htpasswd}}\n" > tls.yml
printf "$common:5002\nauth: {silly: {realm: http://127.0.0.1:5003/token, service: s}}\n" > silly.yml
mkdir served && echo '{"token": "a"}' > served/token
docker-registry serve tls.yml > tls.log 2>&1 & one=$!
docker-registry serve silly.yml > silly.log 2>&1 & two=$!
python3 -m http.server --bind 127.0.0.1 --directory served 5003 > token.log 2>&1 & three=$!
trap 'kill $one $two $three' EXIT
for port in 5001 5002 5003; do
    until (: > /dev/tcp/127.0.0.1/$port) 2> /dev/null; do kill -0 $one && kill -0 $two && kill -0 $three; done
done
"$@"
"#;

#[test]
fn registries_with_tls_passwords_and_tokens_are_signed_in_and_read() {
    let Some(oracle) = Oracle::new() else { return };
    let place = oracle.directory.path();
    policy(&oracle, "one.pub");
    put_image(&oracle.registry(), "guarded");
    file(place, "guarded.sh", GUARDED);
    file(place, "all.sh", ALL.replace("COFFER", &format!("{} image", env!("CARGO_BIN_EXE_coffer"))));
    let helper = file(
        place,
        "docker-credential-tried",
        "#!/bin/sh\necho '{\"Username\": \"user\", \"Secret\": \"secret\"}'\n",
    );
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.join(helper), executable).expect("a program");
    for (folder, config) in [
        ("written", json!({"auths": {"127.0.0.1:5001": {"username": "user", "password": "secret"}}})),
        ("helped", json!({"credHelpers": {"127.0.0.1:5001": "tried"}})),
        ("wrong", json!({"auths": {"127.0.0.1:5001": {"username": "user", "password": "other"}}})),
    ] {
        fs::create_dir(place.join(folder)).expect("a folder");
        file(&place.join(folder), "config.json", config.to_string());
    }
    let said = oracle.run(&[named("all", words("bash guarded.sh bash all.sh"))]);
    assert_eq!(failed(&said), []);
    assert_eq!(said["all"].last, "all of it");
}

/// What must go well and what must not, one after the other.
const ALL: &str = r#"
set -ex
export PATH=$PWD:$PATH
openssl genpkey -algorithm ED25519 -out one.pem
openssl pkey -in one.pem -pubout -out one.pub
guarded=docker://127.0.0.1:5001/guarded:v1
DOCKER_CONFIG=written COFFER sign $guarded --ca ca.pem --key one.pem
DOCKER_CONFIG=written COFFER verify $guarded --ca ca.pem --policy policy.json
DOCKER_CONFIG=helped COFFER verify $guarded --ca ca.pem --policy policy.json
! DOCKER_CONFIG=written COFFER verify $guarded --policy policy.json || exit 1
! DOCKER_CONFIG=wrong COFFER verify $guarded --ca ca.pem --policy policy.json || exit 1
! DOCKER_CONFIG=none COFFER verify $guarded --ca ca.pem --policy policy.json || exit 1
tokens="docker://127.0.0.1:5002/guarded:v1 --insecure-plain-http 127.0.0.1"
COFFER verify $tokens --policy policy.json
COFFER sign $tokens --key one.pem --tag-scheme
COFFER inspect $tokens
# The server of tokens is another host.
! COFFER inspect ${tokens}:5002 || exit 1
echo all of it
"#;

#[test]
fn a_directory_is_fetched_into_the_store_too_and_a_number_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "a/b", "digest": Digest::of(b"{}"), "size": 2}});
    let added = coffer_node::images::Added {
        manifest: image.to_string().into_bytes(),
        media_type: MANIFEST.to_owned(),
        artifact_type: None,
        blobs: vec![b"{}".to_vec()],
        name: Some("v1".to_owned()),
    };
    Layout::create(directory.path()).and_then(|layout| layout.put(&added)).expect("a directory");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coffer"));
    let arguments = ["image", "fetch", ".", "--reference", "v1", "--store", "store", "--json"];
    let output = command.args(arguments).current_dir(directory.path()).output().expect("a run");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said, json!([{"image": Digest::of(&added.manifest), "objects": 0}]));
}

#[test]
fn what_skopeo_signed_with_gnupg_is_taken_from_beside_the_registry() {
    let Some(oracle) = Oracle::new() else { return };
    let place = oracle.directory.path();
    let digest = put_image(&oracle.registry(), "app");
    let (beside, gnupg) = (place.join("lookaside"), place.join("gnupg"));
    fs::create_dir(place.join("registries.d")).expect("a directory");
    let settings = format!(
        "docker:\n  {HOST}:\n    sigstore: file://{0}\n    sigstore-staging: file://{0}\n    lookaside: file://{0}\n",
        beside.display()
    );
    file(&place.join("registries.d"), "ours.yaml", settings);
    file(place, "open.json", json!({"default": [{"type": "insecureAcceptAnything"}]}).to_string());
    for key in ["alice", "bob"] {
        let requirement = json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": format!("{key}.gpg")});
        file(place, &format!("{key}.json"), json!({"default": [requirement]}).to_string());
    }
    let shell = |name: &str, line: String| named(name, vec!["bash".to_owned(), "-c".to_owned(), line]);
    let gpg = format!("gpg --homedir {} --batch --quiet --passphrase \"\"", gnupg.display());
    let key = |key: &str| {
        shell(
            key,
            format!(
                "{gpg} --quick-gen-key {key}@example.com ed25519 sign && {gpg} --export {key}@example.com > {key}.gpg"
            ),
        )
    };
    let signing = format!(
        "GNUPGHOME={} LD_LIBRARY_PATH={} skopeo --policy open.json --registries.d registries.d copy --sign-by alice@example.com \
         --src-tls-verify=false --dest-tls-verify=false docker://{HOST}/app:v1 docker://{HOST}/signed:v1",
        gnupg.display(),
        oracle.libraries
    );
    let ours = |name: &str, what: &str, rest: &str| {
        named(name, coffer(&format!("{what} docker://{HOST}/signed:v1 --insecure-plain-http {HOST} {rest}")))
    };
    let beside = beside.display();
    let commands = [
        shell("home", format!("mkdir -m 700 {}", gnupg.display())),
        key("alice"),
        key("bob"),
        shell("sign", signing),
        shell("end", format!("gpgconf --homedir {} --kill all", gnupg.display())),
        ours("said", "verify", "--policy alice.json --registries-d registries.d"),
        ours("given", "verify", &format!("--policy alice.json --lookaside {beside}")),
        ours("file", "verify", &format!("--policy alice.json --lookaside file://{beside}/")),
        ours("other-key", "verify", "--policy bob.json --registries-d registries.d"),
        ours("elsewhere", "verify", &format!("--policy alice.json --lookaside {beside}/none")),
        ours("fetch", "fetch", &format!("--store store --lookaside {beside}")),
    ];
    let said = oracle.run(&commands);
    let failed: Vec<&str> = failed(&said).into_iter().map(|(name, _)| name).collect();
    assert_eq!(failed, ["elsewhere", "other-key"], "{said:#?}");
    let stored = place.join("store").join(digest.referrers_tag());
    assert_eq!(Layout::open(&stored).expect("a directory").all().expect("readable").len(), 1);
}
