//! The environment over the file: `CRM_RELAY__RECEIVER__LISTEN` sets `receiver.listen`.

use std::collections::BTreeMap;
use std::path::Path;

use super::load::KeyError;
use super::tree::{Node, Origin, Value};

/// Begins the names of the variables that set something. `__` stands between the parts of a key.
pub(super) const PREFIX: &str = "CRM_RELAY__";
const SEPARATOR: &str = "__";

/// Sets in `root` what `variables` (name and value) say; those that do not begin with [`PREFIX`] are not ours.
///
/// # Errors
/// A [`KeyError`] for a name with an empty part, or one that goes below something that is no table.
pub(super) fn apply(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), KeyError> {
    let ours: BTreeMap<_, _> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    for (name, value) in ours {
        set(root, &name, value)?;
    }
    Ok(())
}

fn set(root: &mut Node, variable: &str, text: String) -> Result<(), KeyError> {
    let parts: Vec<&str> = variable[PREFIX.len()..].split(SEPARATOR).collect();
    let origin = Origin::Variable(variable.into());
    let (last, tables) = parts.split_last().expect("split gives at least one part");
    let mut table = root;
    for part in tables {
        table = entry(table, part, &origin)?;
    }
    let node = entry(table, last, &origin)?;
    node.origin = origin;
    node.value = Value::Text(text);
    Ok(())
}

/// The entry of `table` that `part` names, made as an empty table when there is none.
fn entry<'n>(table: &'n mut Node, part: &str, origin: &Origin) -> Result<&'n mut Node, KeyError> {
    if part.is_empty() {
        return Err(KeyError::other(
            table,
            origin,
            "the variable's name has an empty part; write CRM_RELAY__TABLE__KEY, with two underscores between the parts",
        ));
    }
    let parent = table.key.clone();
    let not_a_table = || {
        format!(
            "this is {}, so `{part}` cannot be set below it",
            table.form()
        )
    };
    let Value::Table(entries) = &table.value else {
        return Err(KeyError::other(table, origin, not_a_table()));
    };
    let name = name_of(entries, part);
    let Value::Table(entries) = &mut table.value else {
        unreachable!("it was a table two lines above");
    };
    let key = super::tree::child_key(&parent, &name);
    Ok(entries
        .entry(name)
        .or_insert_with(|| Node::empty(key, origin.clone())))
}

/// The key that `part` of a variable's name stands for: lower case; or, since a variable's name has neither
/// lower case nor hyphens, an existing key that differs in nothing else.
fn name_of(entries: &BTreeMap<String, Node>, part: &str) -> String {
    let lower = part.to_lowercase();
    if entries.contains_key(&lower) {
        return lower;
    }
    let same = |key: &&String| key.to_lowercase().replace('-', "_") == lower;
    entries.keys().find(same).cloned().unwrap_or(lower)
}

/// The list that a variable's `text` stands for: a TOML array, or values separated by commas.
///
/// # Errors
/// What is wrong with a text that begins as an array and is none.
pub(super) fn list(key: &str, origin: &Origin, text: &str) -> Result<Vec<Node>, String> {
    if text.trim_start().starts_with('[') {
        return array(key, origin, text);
    }
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    Ok(parts
        .enumerate()
        .map(|(index, part)| Node {
            key: format!("{key}[{index}]"),
            origin: origin.clone(),
            value: Value::Text(part.to_owned()),
        })
        .collect())
}

fn array(key: &str, origin: &Origin, text: &str) -> Result<Vec<Node>, String> {
    let parsed = Node::parse(Path::new(""), &format!("list = {text}"));
    let entries = match parsed.map(|node| node.value) {
        Ok(Value::Table(entries)) => entries,
        Ok(_) => unreachable!("a document is a table"),
        Err(error) => {
            return Err(format!(
                "a text that begins like a list but is none ({})",
                error.message
            ));
        }
    };
    let mut only = entries.into_values();
    match (only.next().map(|node| node.value), only.next()) {
        (Some(Value::List(items)), None) => Ok(renamed(key, origin, items)),
        _ => Err("a text with more than one list in it".to_owned()),
    }
}

fn renamed(key: &str, origin: &Origin, items: Vec<Node>) -> Vec<Node> {
    let items = items.into_iter().enumerate();
    items
        .map(|(index, item)| Node {
            key: format!("{key}[{index}]"),
            origin: origin.clone(),
            ..item
        })
        .collect()
}
