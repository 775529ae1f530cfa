//! Known sums, the edges of the format, and the grammar. The differential run compares many more with Redis itself.

use proptest::prelude::*;

use super::*;

fn sum(a: &str, b: &str) -> String {
    let number = |text: &str| Extended::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is a number"));
    number(a).sum(number(b)).and_then(Extended::to_decimal).unwrap_or_else(|| "out of range".into())
}

#[test]
fn sums_are_those_of_the_x87() {
    assert_eq!(sum("0.1", "0.2"), "0.3");
    assert_eq!(sum("10.5", "0.1"), "10.6");
    assert_eq!(sum("5.0e3", "200"), "5200");
    assert_eq!(sum("3", "-3"), "0");
    assert_eq!(sum("-0", "-0"), "0");
    assert_eq!(sum("0", "-1e-20"), "0");
    assert_eq!(sum("1", "1e-17"), "1.00000000000000001");
    // Half a unit in the last place of 2^63 goes to the even neighbour.
    assert_eq!(sum("9223372036854775808", "0.5"), "9223372036854775808");
    assert_eq!(sum("9223372036854775809", "0.5"), "9223372036854775810");
    assert_eq!(sum("18446744073709551615", "1"), "18446744073709551616");
    assert_eq!(sum("18446744073709551616", "1"), "18446744073709551616");
    assert_eq!(sum("18446744073709551616", "1.0000000001"), "18446744073709551618");
    // Half a unit and the least bit more, which is below all bits that are kept while reading or adding.
    assert_eq!(sum("18446744073709551617.00000000000000000000000000000000000000001", "0"), "18446744073709551618");
    assert_eq!(sum("18446744073709551616", "0x1.0000000000000002p0"), "18446744073709551618");
    // A unit less the least bit: 2^64 - 1 is a number, and so is everything down to half of it.
    assert_eq!(sum("18446744073709551616", "-0x1p-70"), "18446744073709551616");
    assert_eq!(sum("18446744073709551616", "-0x1.0000000000000002p-1"), "18446744073709551615");
}

#[test]
fn the_edges_of_the_format() {
    let largest = "1.18973149535723176502e+4932";
    assert_eq!(sum(largest, "0").len(), 4933);
    assert_eq!(sum(largest, largest), "out of range");
    assert_eq!(sum(largest, "1"), sum(largest, "0"));
    assert_eq!(Extended::parse(b"1.18973149535723176509e+4932"), None, "rounds up to infinity");
    assert_eq!(Extended::parse(b"1e4933"), None);
    assert_eq!(Extended::parse(b"1e-4951"), None, "rounds down to zero");
    let smallest = Extended::Finite { negative: true, significand: 1, exponent: EXPONENT_MIN };
    assert_eq!(Extended::parse(b"-2e-4951"), Some(smallest));
    assert_eq!(Extended::parse(b"-0x1p-16445"), Some(smallest));
    assert_eq!(
        smallest.sum(smallest).and_then(|twice| twice.sum(Extended::parse(b"0x1p-16444")?)),
        Some(Extended::ZERO)
    );
    let infinite = Extended::Infinite { negative: false };
    assert_eq!(infinite.sum(Extended::Infinite { negative: true }), None);
    assert_eq!(infinite.sum(infinite).and_then(Extended::to_decimal), None);
}

#[test]
fn the_grammar() {
    for (good, value) in [
        ("1", "1"),
        ("+1", "1"),
        ("-1.50", "-1.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e2", "100"),
        ("1E+2", "100"),
        ("1e-2", "0.01"),
        ("0x10", "16"),
        ("0X.8", "0.5"),
        ("0x1.8p1", "3"),
        ("0x1p-1", "0.5"),
        ("00012", "12"),
        ("0e99999999999999999999", "0"),
        ("-0x0", "0"),
    ] {
        assert_eq!(sum(good, "0"), value, "{good}");
    }
    for bad in [
        "",
        "-",
        "+",
        ".",
        "e1",
        "1e",
        "1e+",
        "1 ",
        " 1",
        "1x",
        "0x",
        "0xg",
        "0x1p",
        "--1",
        "1..2",
        "1.2.3",
        "nan",
        "NaN",
        "nan(1)",
        "in",
        "infinit",
        "1_0",
        "1e5.0",
        "0x1e99999999999999999999p",
    ] {
        assert_eq!(Extended::parse(bad.as_bytes()), None, "{bad}");
    }
    assert_eq!(Extended::parse(b"1\0"), None);
    assert_eq!(Extended::parse(b"-InFiNiTy"), Some(Extended::Infinite { negative: true }));
    let long = [b"0.".as_slice(), &[b'1'; Extended::CHARS_MAX - 2]].concat();
    assert!(Extended::parse(&long).is_some());
    assert_eq!(Extended::parse(&[&long[..], b"1"].concat()), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Fractions of a power of two that fit 64 bits add up without rounding, and print to the last digit.
    #[test]
    fn dyadic_fractions_add_up_exactly(a in -(1i64 << 50)..1 << 50, b in -(1i64 << 50)..1 << 50) {
        let text = |scaled: i128| {
            // n / 512 has nine decimals.
            let digits = format!("{:010}", scaled.unsigned_abs() * 1_953_125);
            let (whole, fraction) = digits.split_at(digits.len() - 9);
            let sign = if scaled < 0 { "-" } else { "" };
            format!("{sign}{whole}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let (a, b) = (i128::from(a), i128::from(b));
        prop_assert_eq!(sum(&text(a), &text(b)), text(a + b));
    }

    /// A double is an extended number, and its shortest spelling names it.
    #[test]
    fn doubles_are_read_exactly(bits in any::<u64>()) {
        let double = f64::from_bits(bits);
        prop_assume!(double.is_finite());
        let exact = format!("{double:e}");
        // The same value as an exact sum of powers of two.
        let (fraction_bits, exponent_bits) = (bits & ((1 << 52) - 1), ((bits >> 52) & 0x7FF) as i64);
        let (significand, exponent) = match exponent_bits {
            0 => (fraction_bits, -1074),
            _ => (fraction_bits | 1 << 52, exponent_bits - 1075),
        };
        let value = Extended::rounded(double.is_sign_negative(), significand.into(), false, exponent);
        let spelled = format!("{:.1100}", double);
        prop_assert_eq!(Extended::parse(spelled.as_bytes()), Some(value), "{}", exact);
        prop_assert_eq!(value.to_decimal().unwrap().parse::<f64>().unwrap() as f32, format!("{double:.17}").parse::<f64>().unwrap() as f32);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-+]?(0x)?[0-9a-f.]{0,30}([ep][-+]?[0-9]{0,6})?") {
        if let Some(number) = Extended::parse(text.as_bytes()) {
            let _ = number.sum(number).and_then(Extended::to_decimal);
        }
    }
}
