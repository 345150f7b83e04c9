//! Every command of Redis Pub/Sub is found in the documentation by its name.

use std::fs;
use std::path::Path;

const COMMANDS: [&str; 13] = [
    "PSUBSCRIBE",
    "PUBLISH",
    "PUBSUB CHANNELS",
    "PUBSUB NUMPAT",
    "PUBSUB NUMSUB",
    "PUBSUB SHARDCHANNELS",
    "PUBSUB SHARDNUMSUB",
    "PUNSUBSCRIBE",
    "SPUBLISH",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "UNSUBSCRIBE",
];

/// Returns the text of all sources below `folder`.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => sources(&path),
            false => fs::read_to_string(path).unwrap(),
        })
        .collect()
}

#[test]
fn every_command_is_an_alias() {
    let text = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for command in COMMANDS {
        assert!(text.contains(&format!("#[doc(alias = \"{command}\")]")), "{command}");
    }
}
