//! The chart: what a delivery or a publish costs, as bars on a logarithmic scale.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::Line;
use crate::report::{Report, counted, digits, figure, thousands};
use crate::shapes::{channels, patterns, polled};

const WIDTH: u32 = 1_080;
const PANEL: u32 = 400;
const LEGEND: u32 = 170;

/// A contender's family: the word in its name, what the legend says, and its colour.
const FAMILIES: [(&str, &str, RGBColor); 11] = [
    ("fanout", "fanout", RGBColor(0xd0, 0x4a, 0x02)),
    ("crossbeam", "raw: by hand, crossbeam", RGBColor(0x55, 0x55, 0x55)),
    ("flume", "by hand, flume", RGBColor(0x8f, 0x8f, 0x8f)),
    ("mpsc", "by hand, tokio mpsc", RGBColor(0xc2, 0xc2, 0xc2)),
    ("tokio broadcast", "tokio broadcast", RGBColor(0x1f, 0x5f, 0xa8)),
    ("async-broadcast", "async-broadcast", RGBColor(0x5b, 0x9b, 0xd5)),
    ("bus", "bus", RGBColor(0xa9, 0xcf, 0xf0)),
    ("GlobSet", "by hand, GlobSet", RGBColor(0x2e, 0x7d, 0x4f)),
    ("GlobMatcher", "by hand, GlobMatchers", RGBColor(0x83, 0xbf, 0x96)),
    ("kameo", "kameo_actors broker", RGBColor(0x7b, 0x4b, 0x9e)),
    ("redis", "redis-server", RGBColor(0xc9, 0x9a, 0x00)),
];

/// Bars under one label.
struct Group {
    label: String,
    bars: Vec<(usize, f64)>,
}

impl Group {
    /// One bar for each contender that has a figure; of `fanout` the first.
    fn new(label: String, lines: &[Line], column: usize) -> Self {
        let mut bars: Vec<(usize, f64)> = Vec::new();
        for line in lines {
            let family = FAMILIES.iter().position(|(word, ..)| line.name.contains(word));
            let (Some(family), Some(figure)) = (family, figure(line, column)) else { continue };
            if bars.iter().all(|(drawn, _)| *drawn != family) {
                bars.push((family, figure.time));
            }
        }
        Self { label, bars }
    }
}

/// Draws what was measured; a panel without figures is left out.
pub fn draw(report: &Report) -> Result<String> {
    let mut panels = Vec::new();
    if let Some(grid) = &report.polled {
        let groups = grid.receivers.iter().zip(&grid.lines).map(|(receivers, lines)| {
            let label = counted(*receivers, "receiver");
            Group::new(label, lines, polled::PUBLISH_AND_DRAIN)
        });
        panels.push((
            "One channel, receivers that poll: publish and drain, ns a delivery (logarithmic)",
            groups.collect::<Vec<_>>(),
        ));
    }
    let mut groups = Vec::new();
    if let Some(lines) = &report.channels {
        let count = thousands(channels::channels(report.effort));
        let label = format!("{count} channels, publish and drain");
        groups.push(Group::new(label, lines, channels::PUBLISH_AND_DRAIN));
    }
    if let Some(forms) = &report.patterns {
        let count = thousands(patterns::patterns(report.effort));
        for (form, lines) in forms {
            let label = format!("{count} patterns {form}, new names");
            groups.push(Group::new(label, lines, patterns::NEW));
        }
    }
    if !groups.is_empty() {
        panels.push((
            "Many channels with a receiver each, many patterns of which one matches: ns a publish (logarithmic)",
            groups,
        ));
    }

    let mut svg = String::new();
    {
        let height = PANEL * panels.len().max(1) as u32;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, (title, groups)) in root.split_evenly((panels.len(), 1)).iter().zip(&panels) {
            panel(&root, area, title, groups)?;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws into `area`; `root` takes what is placed by absolute coordinates.
fn panel(root: &Area<'_>, area: &Area<'_>, title: &str, groups: &[Group]) -> Result<()> {
    let (plot, legend) = area.split_horizontally(WIDTH - LEGEND);
    let times = || groups.iter().flat_map(|group| &group.bars).map(|(_, time)| *time);
    let lowest = 10_f64.powf(times().fold(f64::INFINITY, f64::min).log10().floor());
    // Room for the figures above the bars.
    let highest = times().fold(0.0, f64::max) * 2.0;
    if groups.iter().all(|group| group.bars.is_empty()) {
        return Ok(());
    }
    // A place for each bar, and one between groups.
    let places: usize = groups.iter().map(|group| group.bars.len() + 1).sum();
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, ("sans-serif", 17))
        .margin(12)
        .y_label_area_size(60)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..places as f64, (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
        .y_labels(6)
        .y_label_formatter(&|time| thousands(time.round() as usize))
        .label_style(("sans-serif", 13))
        .draw()?;

    let text = |size: u32, vertical| {
        let style = TextStyle::from(("sans-serif", size).into_font()).color(&BLACK);
        style.pos(Pos::new(HPos::Center, vertical))
    };
    let mut place = 0.5;
    for group in groups {
        let first = place;
        for (family, time) in &group.bars {
            let colour = FAMILIES[*family].2.filled();
            let bar = Rectangle::new([(place + 0.06, lowest), (place + 0.94, *time)], colour);
            chart.draw_series([bar])?;
            let (x, y) = chart.plotting_area().map_coordinate(&(place + 0.5, *time));
            root.draw(&Text::new(digits(*time), (x, y - 2), text(10, VPos::Bottom)))?;
            place += 1.0;
        }
        let middle = (first + place) / 2.0;
        let (x, y) = chart.plotting_area().map_coordinate(&(middle, lowest));
        root.draw(&Text::new(group.label.clone(), (x, y + 6), text(13, VPos::Top)))?;
        place += 1.0;
    }

    let mut shown = (0..FAMILIES.len())
        .filter(|family| groups.iter().any(|group| group.bars.iter().any(|bar| bar.0 == *family)));
    for row in 0.. {
        let Some(family) = shown.next() else { break };
        let (_, name, colour) = FAMILIES[family];
        let y = 50 + 20 * row;
        legend.draw(&Rectangle::new([(0, y), (12, y + 12)], colour.filled()))?;
        let style = TextStyle::from(("sans-serif", 13).into_font()).color(&BLACK);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        legend.draw(&Text::new(name, (18, y + 6), style))?;
    }
    Ok(())
}
