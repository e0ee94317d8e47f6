//! How dead letters look: a table for people, or a line of JSON each.

use std::io;

use serde::Serialize;

use crate::dead::{Fate, Report, Summary};
use crate::event::PortalId;

/// What became of each, and how many there were.
pub(super) fn tell(
    report: &Report,
    done: &str,
    json: bool,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    if json {
        return lines(&report.letters, out);
    }
    let told: Vec<String> = report
        .letters
        .iter()
        .map(|one| match one.outcome {
            Fate::Stays => format!("stays: {}", one.what),
            Fate::Replayed | Fate::Discarded => one.what.clone(),
        })
        .collect();
    let rows = report.letters.iter().map(|one| &one.letter);
    write_table(rows.zip(told.iter().map(String::as_str)), out)?;
    let would_be = if report.dry_run { "would be " } else { "" };
    let stay = report.extent.matched.saturating_sub(report.done);
    writeln!(
        out,
        "{} {would_be}{done}, {stay} stay; {} of {} were looked at",
        report.done, report.extent.looked_at, report.extent.kept
    )?;
    Ok(())
}

pub(super) fn lines(letters: &[impl Serialize], out: &mut impl io::Write) -> anyhow::Result<()> {
    for letter in letters {
        writeln!(out, "{}", serde_json::to_string(letter)?)?;
    }
    Ok(())
}

/// A row for each letter, in columns as wide as they need to be; the last is a text for people.
pub(super) fn write_table<'l>(
    letters: impl Iterator<Item = (&'l Summary, &'l str)>,
    out: &mut impl io::Write,
) -> io::Result<()> {
    let head = [
        "ID",
        "AT",
        "STAGE",
        "REASON",
        "PORTAL",
        "SUBJECT",
        "EVENTS",
        "DESTINATION",
    ];
    let mut rows = vec![(head.map(str::to_owned), "WHAT")];
    rows.extend(letters.map(|(letter, told)| (row(letter), told)));
    if rows.len() == 1 {
        return Ok(());
    }
    let width = |column: usize| {
        rows.iter()
            .map(|(row, _)| row[column].chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..head.len()).map(|n| width(n).unwrap_or(0)).collect();
    for (row, told) in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            write!(out, "{cell:width$}  ")?;
        }
        writeln!(out, "{told}")?;
    }
    Ok(())
}

fn row(letter: &Summary) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let subject = letter.subject.clone();
    let part = letter.part.as_ref().map(|part| format!("piece {part}"));
    [
        letter.id.clone(),
        or_dash(letter.at.map(|at| at.to_string())),
        or_dash(letter.stage.map(|stage| stage.as_str().to_owned())),
        letter.reason.clone(),
        or_dash(letter.portal_id.as_ref().map(PortalId::to_string)),
        or_dash(subject.or(part)),
        letter.events.to_string(),
        or_dash(letter.destination.clone()),
    ]
}
