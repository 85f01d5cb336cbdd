//! What a vector is kept as, and between which two numbers a distance to it lies.

use crate::vector::Distance;
use crate::vector::sqlite_tables::length;

/// The largest number that is kept.
const LARGEST: f64 = 127.0;
/// Below this length a vector's squares are lost in a float.
const TINY: f64 = 1e-15;

/// How vectors are compared, and what is taken away from each.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) distance: Distance,
    pub(super) center: Vec<f64>,
}

/// What is known of a vector besides its small numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// What they are multiplied by.
    scale: f32,
    /// At least how far the vector is from that.
    error: f32,
    /// The sum of their squares.
    squares: u32,
}

impl Space {
    #[inline(always)]
    pub(super) fn encode(&self, vector: &[f32]) -> (Facts, Vec<i8>) {
        let factor = factor(self.distance, vector);
        let places = vector.iter().zip(&self.center);
        let away: Vec<f64> = places
            .map(|(number, center)| factor * f64::from(*number) - center)
            .collect();
        let largest = away.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
        let scale = (largest / LARGEST) as f32;
        // Of nothing, and of less than a float can be, the numbers are 0.
        let inverse = if scale > 0.0 {
            1.0 / f64::from(scale)
        } else {
            0.0
        };
        let code = |number: f64| (number * inverse).round().clamp(-LARGEST, LARGEST);
        let codes: Vec<i8> = away.iter().map(|number| code(*number) as i8).collect();
        let (mut missed, mut squares) = (0.0, 0);
        for (number, code) in away.iter().zip(&codes) {
            missed += (number - f64::from(scale) * f64::from(*code)).powi(2);
            squares += u32::from(code.unsigned_abs()).pow(2);
        }
        let mut error = rounded_up(missed.sqrt(), largest);
        if self.distance == Distance::Dot && (f64::MIN_POSITIVE..TINY).contains(&length(vector)) {
            // Who compares with floats may find anything of it.
            error = f64::INFINITY;
        }
        let facts = Facts {
            scale,
            error: error as f32,
            squares,
        };
        (facts, codes)
    }
}

/// What a vector is asked for with.
pub(super) struct Asked {
    pub(super) codes: Vec<i16>,
    scale: f64,
    /// At least how far it is from that.
    error: f64,
    /// Its length, as it is compared.
    length: f64,
    /// The sum of the squares of the codes, scaled.
    squares: f64,
    /// Its product with the middle.
    center: f64,
    /// The length of the middle.
    center_length: f64,
    /// At most how long what is kept of a vector is, by its scale.
    longest: f64,
    /// What who compares with floats may be off, by the lengths.
    slack: f64,
}

impl Asked {
    pub(super) fn new(space: &Space, vector: &[f32]) -> Option<Self> {
        let dimensions = space.center.len();
        if vector.len() != dimensions
            || space.distance != Distance::Euclidean && length(vector) < TINY
        {
            return None;
        }
        let factor = factor(space.distance, vector);
        let mut asked: Vec<f64> = vector.iter().map(|it| factor * f64::from(*it)).collect();
        if space.distance == Distance::Euclidean {
            for (number, center) in asked.iter_mut().zip(&space.center) {
                *number -= center;
            }
        }
        // The sum of the products fits into an `i32`.
        let levels = (f64::from(i32::MAX) / (LARGEST * dimensions as f64)).floor();
        let levels = levels.min(f64::from(i16::MAX));
        let largest = asked.iter().fold(0.0, |most: f64, it| most.max(it.abs()));
        let scale = if largest > 0.0 { largest / levels } else { 1.0 };
        let code = |number: f64| (number / scale).round().clamp(-levels, levels) as i16;
        let codes: Vec<i16> = asked.iter().map(|number| code(*number)).collect();
        let kept = codes.iter().map(|code| scale * f64::from(*code));
        let missed: f64 = asked
            .iter()
            .zip(kept.clone())
            .map(|(number, kept)| (number - kept).powi(2))
            .sum();
        let dot = |one: &[f64], other: &[f64]| {
            let each = one.iter().zip(other).map(|(one, other)| one * other);
            each.sum::<f64>()
        };
        Some(Self {
            scale,
            error: rounded_up(missed.sqrt(), largest),
            length: dot(&asked, &asked).sqrt() * (1.0 + 1e-9),
            squares: kept.map(|kept| kept.powi(2)).sum(),
            center: dot(&asked, &space.center),
            center_length: dot(&space.center, &space.center).sqrt(),
            longest: LARGEST * (dimensions as f64).sqrt(),
            slack: (dimensions + 8) as f64 * f64::from(f32::EPSILON),
            codes,
        })
    }

    /// Between what its distance to a vector is, however that is compared.
    #[inline(always)]
    pub(super) fn bounds(&self, space: &Space, facts: Facts, product: i32) -> (f64, f64) {
        let (scale, error) = (f64::from(facts.scale), f64::from(facts.error));
        let product = f64::from(product) * scale * self.scale;
        let longest = scale * self.longest;
        match space.distance {
            Distance::Cosine => {
                let middle = 1.0 - product - self.center;
                let off = error * self.length + longest * self.error + self.slack;
                (middle - off, (middle + off).max(0.0))
            }
            Distance::Dot => {
                let middle = -product - self.center;
                let lengths = (self.center_length + longest + error) * self.length;
                let off = error * self.length + longest * self.error + self.slack * lengths;
                (middle - off, middle + off)
            }
            Distance::Euclidean => {
                let square = scale.powi(2) * f64::from(facts.squares);
                // What is left of two large numbers has their rounding.
                let rounding = (square + self.squares) * 1e-14;
                let between = square + self.squares - 2.0 * product;
                let least = (between - rounding).max(0.0).sqrt() - error - self.error;
                let most = (between + rounding).max(0.0).sqrt() + error + self.error;
                (
                    least - least.abs() * self.slack - 1e-20,
                    most * (1.0 + self.slack) + 1e-20,
                )
            }
        }
    }
}

/// What a vector is multiplied by before it is compared.
pub(super) fn factor(distance: Distance, vector: &[f32]) -> f64 {
    match distance {
        // Those without a length are refused.
        Distance::Cosine => 1.0 / length(vector).max(f64::MIN_POSITIVE),
        Distance::Dot | Distance::Euclidean => 1.0,
    }
}

/// Not less than a length that was computed of numbers up to this, also as a float.
fn rounded_up(length: f64, largest: f64) -> f64 {
    length * (1.0 + 1e-6) + largest * 1e-9 + f64::from(f32::MIN_POSITIVE)
}
