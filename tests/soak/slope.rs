//! A straight line through points, by least squares.

/// The line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// The mean of what was measured.
    pub mean: f64,
    /// How much it grows for each unit of time.
    pub slope: f64,
}

impl Line {
    /// The line that is nearest to all (time, value).
    pub fn through(points: &[(f64, f64)]) -> Self {
        let count = points.len().max(1) as f64;
        let time = points.iter().map(|(time, _)| time).sum::<f64>() / count;
        let mean = points.iter().map(|(_, value)| value).sum::<f64>() / count;
        let both: f64 = points.iter().map(|(at, value)| (at - time) * (value - mean)).sum();
        let square: f64 = points.iter().map(|(at, _)| (at - time).powi(2)).sum();
        let slope = if square > 0.0 { both / square } else { 0.0 };
        Self { mean, slope }
    }

    /// The slope as a part of the mean.
    pub fn growth(&self) -> f64 {
        self.slope / self.mean.abs().max(f64::MIN_POSITIVE)
    }
}

#[test]
fn growth_is_seen_through_noise() {
    let noise = |n: u32| f64::from(n * 7 % 11) - 5.0;
    let points = |slope: f64| -> Vec<(f64, f64)> {
        (0..180).map(|n| (f64::from(n), 1000.0 + slope * f64::from(n) + noise(n))).collect()
    };
    assert!(Line::through(&points(0.0)).slope.abs() < 0.01);
    assert!((Line::through(&points(2.0)).slope - 2.0).abs() < 0.01);
    assert!((Line::through(&points(-2.0)).slope + 2.0).abs() < 0.01);
    let line = Line::through(&[(0.0, 100.0), (1.0, 120.0)]);
    assert_eq!((line.mean, line.slope), (110.0, 20.0));
    assert!((line.growth() - 0.1818).abs() < 0.001);
    assert_eq!(Line::through(&[(1.0, 5.0)]).slope, 0.0);
}
