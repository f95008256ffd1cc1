//! Images signed in every way that can be right or wrong, each with the verdict that it must get. Where cosign can be asked the
//! same of the same bytes, it is, with no network, and must say the same.
//!
//! Keyless signatures are of a simulated authority (`authority.rs`), named in the trusted root that both of us are given.

mod artefacts;
mod authority;
mod cases_keyed;
mod cases_keyless;
mod cases_notation;
mod chains;
mod cost;
mod gpg;
mod notation;
mod oracle;
mod policies;
mod registry;
mod table;
mod world;

use coffer_image::artefact::{Digest, Evidence, Subject};
use coffer_image::judge::{Decision, judge};
use coffer_image::policy::{NoFiles, Policy};
use serde_json::json;

use artefacts::manifest;
use authority::{base64, pem, spki};
use cases_notation::Form;
use oracle::{HOST, Oracle, file, on_registry};
use registry::Store;
use world::{Case, World, on_host};

fn cases(world: &World) -> Vec<Case> {
    [
        cases_keyed::bundles(world),
        cases_keyed::lists(world),
        cases_keyed::in_log(world),
        cases_keyed::payloads(world),
        cases_keyed::names(world),
        cases_keyed::together(world),
        cases_keyed::scopes(world),
        cases_keyless::signers(world),
        cases_keyless::times(world),
        cases_keyless::missing(world),
        cases_keyless::second_log(world),
        cases_keyless::as_the_others(world),
        cases_keyed::of_both_schemes(world),
        notations(world),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn notations(world: &World) -> Vec<Case> {
    let of = |form| {
        let all = [cases_notation::signers, cases_notation::times, cases_notation::lists];
        all.into_iter().flat_map(move |cases| cases(world, form))
    };
    of(Form::Jws).chain(of(Form::Cose)).collect()
}

fn settle(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} differ\n  {}\n", faults.len(), faults.join("\n  "));
}

#[test]
fn every_image_gets_the_verdict_that_it_must_get() {
    let world = World::new();
    let cases = cases(&world);
    println!("{} images", cases.len());
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    settle(cases.iter().filter_map(|case| case.fault(world.now)).collect());
}

#[test]
fn cosign_says_the_same_of_the_same_images() {
    let Some(oracle) = Oracle::new() else { return };
    let world = World::new();
    let store = Store::new(&oracle.registry());
    file(oracle.directory.path(), "alice.pub", pem("PUBLIC KEY", &spki(&world.alice)));
    file(oracle.directory.path(), "broken.pub", "AAAA");
    let mut commands = Vec::new();
    let asked: Vec<Case> = cases(&world).into_iter().filter(|case| case.cosign.is_some()).collect();
    for case in &asked {
        let to = case.index.as_ref().map_or(case.digest(), |index| Digest::of(index));
        let all: Vec<&[u8]> = case.index.iter().chain([&case.manifest]).map(Vec::as_slice).collect();
        store.put(case.name, &all, &to, &case.evidence());
        let (options, root) = case.cosign.as_ref().expect("asked");
        let mut arguments = on_registry(&["cosign", "verify"], &format!("{HOST}/{}@{to}", case.name));
        arguments.extend(options.iter().cloned());
        if let Some(root) = root {
            let name = file(oracle.directory.path(), &format!("{}.json", case.name), root.to_string());
            arguments.extend(["--trusted-root".to_owned(), name]);
        }
        commands.push((case.name.to_owned(), arguments));
    }
    let said = oracle.run(&commands);
    let faults = asked.iter().filter_map(|case| {
        let theirs = &said[case.name];
        (theirs.well != case.expected.is_ok())
            .then(|| format!("{}: cosign says {:?}", case.name, theirs.last))
    });
    println!("cosign was asked about {} images", asked.len());
    settle(faults.collect());
}

#[test]
fn notation_says_the_same_of_the_same_images() {
    let Some(oracle) = Oracle::new() else { return };
    let world = World::new();
    let store = Store::new(&oracle.registry());
    let all: Vec<Case> = cases(&world).into_iter().filter(|case| case.notation.is_some()).collect();
    let commands = all.iter().map(|case| {
        let to = Digest::of(case.signed());
        let manifests: Vec<&[u8]> = case.index.iter().chain([&case.manifest]).map(Vec::as_slice).collect();
        store.put(case.name, &manifests, &to, &Evidence::default());
        store.put_notation(case.name, &to, &case.evidence());
        for bytes in &case.served {
            store.blob(case.name, bytes);
        }
        let settings = case.notation.as_ref().expect("asked");
        notation::told(&oracle, case.name, settings, &format!("{HOST}/{}@{to}", case.name))
    });
    let said = oracle.run(&commands.collect::<Vec<_>>());
    let faults = all.iter().filter_map(|case| {
        let theirs = &said[case.name];
        (theirs.well != case.expected.is_ok())
            .then(|| format!("{}: notation says {:?}", case.name, theirs.last))
    });
    println!("notation was asked about {} images", all.len());
    settle(faults.collect());
}

const SCHEMES: [(&str, &str); 2] =
    [("new", "--new-bundle-format=true"), ("old", "--new-bundle-format=false")];

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Signs an image of the name `name-scheme` in each scheme with the key in `name.key`.
fn signing(store: &Store, name: &str) -> Vec<(String, Vec<String>)> {
    let sign = |(scheme, option): (&str, &str)| {
        let repository = format!("{name}-{scheme}");
        let image = manifest(&repository);
        store.put(&repository, &[&image], &Digest::of(&image), &Evidence::default());
        let mut arguments =
            on_registry(&["cosign", "sign"], &format!("{HOST}/{repository}@{}", Digest::of(&image)));
        arguments.extend(words(&format!(
            "--key {name}.key --tlog-upload=false --use-signing-config=false --yes {option}"
        )));
        (repository, arguments)
    };
    SCHEMES.map(sign).to_vec()
}

/// What is decided about the image in `repository` for signatures by the key in the file `key`.
fn decided(oracle: &Oracle, repository: &str, key: &str) -> Decision {
    let image = manifest(repository);
    let evidence = Store::new(&oracle.registry()).attached(repository, &Digest::of(&image));
    assert_eq!(evidence.attached().len(), 1, "{repository}");
    let data = base64(&std::fs::read(oracle.directory.path().join(key)).expect("a key"));
    let requirement =
        json!({"type": "sigstoreSigned", "keyData": data, "signedIdentity": {"type": "matchDigest"}});
    let policy = on_host(json!([requirement])).to_string();
    let policy = Policy::parse(policy.as_bytes(), &NoFiles).expect("a policy");
    let reference = format!("{HOST}/{repository}:v1").parse().expect("a reference");
    let subject = Subject::of_manifest(reference, image).expect("an image");
    judge(&policy, subject, &evidence, World::new().now).decision()
}

#[test]
fn what_cosign_signs_is_admitted_and_under_another_key_is_not() {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let key = |name: &str| {
        (name.to_owned(), words(&format!("cosign generate-key-pair --output-key-prefix {name}")))
    };
    let commands = [vec![key("one"), key("two")], signing(&store, "one")].concat();
    let said = oracle.run(&commands);
    assert!(said.values().all(|said| said.well), "{said:?}");
    let found = SCHEMES.map(|(scheme, _)| {
        let repository = format!("one-{scheme}");
        (decided(&oracle, &repository, "one.pub"), decided(&oracle, &repository, "two.pub"))
    });
    assert_eq!(found, [(Decision::Admitted, Decision::Refused); 2]);
}

#[test]
fn what_cosign_signs_with_other_kinds_of_keys_is_admitted() {
    let Some(oracle) = Oracle::new() else { return };
    let store = Store::new(&oracle.registry());
    let kinds = [
        ("p384", "EC -pkeyopt ec_paramgen_curve:P-384"),
        ("rsa", "RSA -pkeyopt rsa_keygen_bits:3072"),
        ("ed25519", "ED25519"),
    ];
    let commands = kinds.iter().flat_map(|(name, options)| {
        let made = format!("openssl genpkey -algorithm {options} -out {name}.pem");
        let taken = format!("cosign import-key-pair --key {name}.pem --output-key-prefix {name} --yes");
        let named = |what: &str, line: &str| (format!("{what} {name}"), words(line));
        [vec![named("make", &made), named("import", &taken)], signing(&store, name)].concat()
    });
    let said = oracle.run(&commands.collect::<Vec<_>>());
    assert!(said.values().all(|said| said.well), "{said:?}");
    let found = kinds.map(|(name, _)| {
        SCHEMES.map(|(scheme, _)| decided(&oracle, &format!("{name}-{scheme}"), &format!("{name}.pub")))
    });
    assert_eq!(found, [[Decision::Admitted; 2]; 3]);
}
