//! The figures as a picture: bars, one panel for what the receiver accepts and one for what the
//! worker makes of it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Report, Table, figure};
use crate::{ceiling, receiver, worker};

const WIDTH: u32 = 900;
const BAR: u32 = 26;
const HEAD: u32 = 44;
/// Where bars begin, beside their names, and where the longest may end, beside its figure.
const LEFT: f64 = 390.0;
const RIGHT: f64 = 820.0;
const GREY: RGBColor = RGBColor(150, 150, 150);
const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(230, 126, 34);

struct Bar {
    name: String,
    value: f64,
}

struct Panel {
    title: &'static str,
    bars: Vec<Bar>,
}

/// As SVG; on white, so that it can be read on a dark page too.
pub fn plot(report: &Report) -> String {
    let panels: Vec<_> = panels(report);
    let height = panels
        .iter()
        .map(|panel| HEAD + BAR * panel.bars.len() as u32)
        .sum::<u32>()
        + BAR;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).expect("an image");
        let mut top = 0;
        for panel in &panels {
            draw(&area, panel, top);
            top += HEAD + BAR * panel.bars.len() as u32;
        }
        area.present().expect("an image");
    }
    svg
}

fn panels(report: &Report) -> Vec<Panel> {
    let bars = |title: &str, column: &str| {
        let rows = report
            .table(title)
            .map_or(&[][..], |table: &Table| &table.rows);
        let bar = |row: &crate::report::Row| {
            let value = row.median(column)?;
            Some(Bar {
                name: row.name.clone(),
                value,
            })
        };
        rows.iter().filter_map(bar).collect::<Vec<_>>()
    };
    let mut accepted = bars(ceiling::TITLE, ceiling::RATE);
    accepted.extend(bars(receiver::CLOSED, receiver::RATE));
    let panels = [
        Panel {
            title: "Accepted per second: raw messages, and notifications",
            bars: accepted,
        },
        Panel {
            title: "Enriched events per second, from a backlog",
            bars: bars(worker::TITLE, worker::RATE),
        },
    ];
    panels
        .into_iter()
        .filter(|panel| !panel.bars.is_empty())
        .collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(area: &Area<'_>, panel: &Panel, top: u32) {
    let text = |size: i32, at: HPos| {
        ("sans-serif", size)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(at, VPos::Center))
    };
    let middle = (top + HEAD / 2 + 4) as i32;
    area.draw(&Text::new(panel.title, (16, middle), text(17, HPos::Left)))
        .expect("an image");
    let most = panel.bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    for (index, bar) in panel.bars.iter().enumerate() {
        let upper = (top + HEAD + BAR * index as u32) as i32;
        let (lower, middle) = (upper + BAR as i32 - 6, upper + BAR as i32 / 2 - 3);
        let end = (LEFT + (RIGHT - LEFT) * bar.value / most) as i32;
        let rectangle = Rectangle::new(
            [(LEFT as i32, upper), (end, lower)],
            colour(&bar.name).filled(),
        );
        area.draw(&rectangle).expect("an image");
        let name = Text::new(
            bar.name.clone(),
            (LEFT as i32 - 10, middle),
            text(14, HPos::Right),
        );
        area.draw(&name).expect("an image");
        let value = Text::new(figure(bar.value), (end + 8, middle), text(14, HPos::Left));
        area.draw(&value).expect("an image");
    }
}

fn colour(name: &str) -> RGBColor {
    if name.starts_with("crm-relay") {
        BLUE
    } else if name.starts_with("comparison") {
        ORANGE
    } else {
        GREY
    }
}
