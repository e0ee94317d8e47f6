//! A configuration: it loads or is refused, is shown without its secrets, and what it is checked for ends.
//!
//! The input is TOML; lines that begin with `$` are variables instead: `$CRM_RELAY__BUS__PREFIX=crm`.
#![no_main]

use std::path::Path;

use crm_relay::config::{Role, load_text, portal_of};
use libfuzzer_sys::fuzz_target;

/// Settings that name files: a check reads them, and the fuzzer would have it read devices.
const FILES: &[&str] = &["file:", "folder", "cert", "ca", "data_dir", "path"];

fuzz_target!(|input: &str| {
    let (variables, lines): (Vec<&str>, Vec<&str>) =
        input.lines().partition(|line| line.starts_with('$'));
    let variables = variables.into_iter().filter_map(|line| {
        let (name, value) = line[1..].split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let text = lines.join("\n");
    let path = Path::new("relay.toml");
    if let Err(error) = portal_of(path, &text) {
        let _ = (error.to_string(), format!("{error:?}"));
    }
    match load_text(path, &text, variables) {
        Ok(config) => {
            let shown = format!("{config:?}");
            assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
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
