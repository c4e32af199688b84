//! A picture of a run: latency by percentile above, throughput over time below.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::load::Measured;

/// Draws the picture as SVG.
pub(crate) fn draw(measured: &Measured, title: &str) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(SIZE.1 / 2);
        percentiles(&above, measured, title)?;
        throughput(&below, measured)?;
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Latency over the share of operations that took longer, both on a logarithmic scale: so the
/// slowest few have as much room as the rest.
fn percentiles(area: &Area<'_>, measured: &Measured, title: &str) -> Result<(), Box<dyn Error>> {
    let latency = &measured.latency;
    let points: Vec<_> = PERCENTILES
        .iter()
        .filter(|percentile| latency.len() as f64 * slower(**percentile) >= 1.0)
        .map(|percentile| {
            (1.0 / slower(*percentile), latency.value_at_percentile(*percentile) as f64 / 1e3)
        })
        .collect();
    let widest = points.last().map_or(10.0, |point| point.0.max(10.0));
    let least = latency.min().max(1) as f64 / 1e3;
    let most = latency.max().max(2) as f64 / 1e3;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..widest).log_scale(), (least..most * 1.1).log_scale())?;
    let name = |x: &f64| format!("{}", 100.0 - (100_000.0 / x).round() / 1_000.0);
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency (ms)")
        .x_label_formatter(&name)
        .light_line_style(TRANSPARENT)
        .draw()?;
    chart.draw_series(LineSeries::new(points, &INK))?;
    Ok(())
}

fn throughput(area: &Area<'_>, measured: &Measured) -> Result<(), Box<dyn Error>> {
    let rates = || measured.timeline.iter().map(|moment| (moment.at, moment.ops_per_s));
    let end = measured.elapsed.as_secs_f64().max(0.1);
    let top = rates().map(|(_, rate)| rate).fold(1.0, f64::max) * 1.1;
    let slow = || measured.timeline.iter().map(|moment| moment.p99_us as f64 / 1e3);
    let slowest = slow().fold(0.1, f64::max) * 1.1;
    let seconds: Range<f64> = 0.0..end;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .right_y_label_area_size(60)
        .build_cartesian_2d(seconds.clone(), 0.0..top)?
        .set_secondary_coord(seconds, 0.0..slowest);
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("operations/s (blue)")
        .light_line_style(TRANSPARENT)
        .draw()?;
    chart.configure_secondary_axes().y_desc("p99 (ms, red)").draw()?;
    chart.draw_series(LineSeries::new(rates(), &INK))?;
    let times = measured.timeline.iter().map(|moment| moment.at);
    chart.draw_secondary_series(LineSeries::new(times.zip(slow()), &RED))?;
    Ok(())
}

/// The share of operations that took longer than this percentile.
fn slower(percentile: f64) -> f64 {
    1.0 - percentile / 100.0
}

const SIZE: (u32, u32) = (900, 640);
const INK: RGBColor = RGBColor(31, 88, 166);

const PERCENTILES: [f64; 15] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999];
