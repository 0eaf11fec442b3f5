//! Whole numbers of any size, in decimal: what counters are made of (ADR-49).

use std::cmp::Ordering;

/// A whole number of any size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decimal {
    is_negative: bool,
    /// The digits from the lowest on, without zeros at the end; none for zero.
    digits: Vec<u8>,
}

impl Decimal {
    /// Reads digits, perhaps after a sign. Nothing else is a number, as in Go's `big.Int` to base 10.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        Some(Self::new(is_negative, digits.bytes().rev().map(|digit| digit - b'0').collect()))
    }

    fn new(is_negative: bool, mut digits: Vec<u8>) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Self { is_negative: is_negative && !digits.is_empty(), digits }
    }

    /// How many digits it has; none for zero.
    #[must_use]
    pub fn digits(&self) -> usize {
        self.digits.len()
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        if self.is_negative == other.is_negative {
            return Self::new(self.is_negative, sum(&self.digits, &other.digits));
        }
        match compare(&self.digits, &other.digits) {
            Ordering::Less => Self::new(other.is_negative, difference(&other.digits, &self.digits)),
            _ => Self::new(self.is_negative, difference(&self.digits, &other.digits)),
        }
    }

    /// What is left of it without the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self::new(!other.is_negative, other.digits.clone()))
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.digits.is_empty() {
            return f.write_str("0");
        }
        let digits: String =
            self.digits.iter().rev().map(|digit| char::from(digit + b'0')).collect();
        write!(f, "{}{digits}", if self.is_negative { "-" } else { "" })
    }
}

fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.iter().rev().cmp(right.iter().rev()))
}

/// The digits of both, and then those of the longer one with zeros.
fn pairs<'a>(left: &'a [u8], right: &'a [u8]) -> impl Iterator<Item = (u8, u8)> + 'a {
    let digit = |digits: &'a [u8], at: usize| digits.get(at).copied().unwrap_or(0);
    (0..left.len().max(right.len())).map(move |at| (digit(left, at), digit(right, at)))
}

fn sum(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut digits: Vec<u8> = pairs(left, right)
        .map(|(left, right)| {
            let all = left + right + carry;
            carry = all / 10;
            all % 10
        })
        .collect();
    digits.push(carry);
    digits
}

/// `more` without `less`, which is not larger.
fn difference(more: &[u8], less: &[u8]) -> Vec<u8> {
    let mut borrowed = 0;
    pairs(more, less)
        .map(|(more, less)| {
            let less = less + borrowed;
            borrowed = u8::from(more < less);
            more + 10 * borrowed - less
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_and_what_is_none() {
        for (text, same) in [("7", "7"), ("+7", "7"), ("-007", "-7"), ("-0", "0"), ("000", "0")] {
            assert_eq!(number(text).to_string(), same);
        }
        for wrong in ["", "+", "-", "--1", "+-1", "1.5", "1e3", "0x1", "1_0", " 1", "1 ", "x"] {
            assert_eq!(Decimal::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sums_and_differences_are_those_of_small_numbers() {
        let some = [-1001_i64, -999, -100, -10, -9, -1, 0, 1, 2, 9, 10, 11, 99, 100, 1000, 12345];
        for left in some {
            for right in some {
                let (one, other) = (number(&left.to_string()), number(&right.to_string()));
                assert_eq!(one.plus(&other).to_string(), (left + right).to_string());
                assert_eq!(one.minus(&other).to_string(), (left - right).to_string());
            }
        }
    }

    #[test]
    fn numbers_have_any_size() {
        let nines = "9".repeat(100);
        let large = number(&nines).plus(&number("1"));
        assert_eq!(large.to_string(), format!("1{}", "0".repeat(100)));
        assert_eq!(large.minus(&number("1")).to_string(), nines);
    }
}
