//! A configuration: it loads or is refused, is shown without a secret, and what it is checked for ends.
//!
//! The input is TOML; lines that begin with `$` are variables instead: `$CRM_RELAY__BUS__PREFIX=crm`.
#![no_main]

use std::path::Path;

use crm_relay::config::{Role, load_text, portal_of};
use libfuzzer_sys::fuzz_target;

/// Settings that name files: a check reads them, and the fuzzer would have it read devices.
const FILES: &[&str] = &["file:", "folder", "cert", "ca", "data_dir", "path"];

/// A secret, unless the input says it elsewhere.
const SECRET: (&str, &str) = ("CRM_RELAY__ADMIN__TOKEN", "hunter2-hunter2-hunter2-hunter2");

fuzz_target!(|input: &str| {
    let (variables, lines): (Vec<&str>, Vec<&str>) =
        input.lines().partition(|line| line.starts_with('$'));
    let variables = variables
        .into_iter()
        .filter_map(|line| line[1..].split_once('='))
        .chain([SECRET])
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let text = lines.join("\n");
    let path = Path::new("relay.toml");
    if let Err(error) = portal_of(path, &text) {
        let _ = (error.to_string(), format!("{error:?}"));
    }
    match load_text(path, &text, variables) {
        Ok(config) => {
            let shown = format!("{config:?}");
            let is_shown = shown.contains(SECRET.1) && !input.contains(SECRET.1);
            assert!(!is_shown, "a secret is shown: {shown}");
            let _ = toml_of(&config);
            if !FILES.iter().any(|word| input.to_lowercase().contains(word)) {
                for role in [Role::Run, Role::Receiver, Role::Worker] {
                    let report = config.report(role);
                    let _ = report.problems.iter().map(ToString::to_string).count();
                }
            }
        }
        Err(error) => {
            let _ = (error.to_string(), format!("{error:?}"));
        }
    }
});

fn toml_of(config: &crm_relay::config::Config) -> Option<String> {
    serde_json::to_string(config).ok()
}
