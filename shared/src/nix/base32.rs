//! Nix's base 32: its own alphabet, and digits counted from the end of the string.
//!
//! The bytes are one little-endian number; the string writes it most significant digit first,
//! five bits a digit.

/// The alphabet; `e`, `o`, `u` and `t` are left out.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why a string is not base 32 of the expected number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    /// The string is too long or too short for the number of bytes.
    #[error("{actual} base-32 characters where {expected} are needed")]
    Length {
        /// How many characters the wanted number of bytes takes.
        expected: usize,
        /// How many there were.
        actual: usize,
    },
    /// A character outside the alphabet.
    #[error("`{}` is not a base-32 character", .0.escape_ascii())]
    Character(u8),
    /// The first digit holds bits beyond the last byte.
    #[error("the first base-32 digit does not fit")]
    Overflow,
}

/// Returns how many characters `bytes` bytes take.
#[must_use]
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Returns whether `byte` is a digit.
#[must_use]
pub fn is_digit(byte: u8) -> bool {
    ALPHABET.contains(&byte)
}

/// Encodes `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|digit| {
            let value = (0..5)
                .fold(0, |value, offset| value | (usize::from(bit(digit * 5 + offset)) << offset));
            char::from(ALPHABET.get(value).copied().unwrap_or_default())
        })
        .collect()
}

/// Decodes `text` into exactly `N` bytes.
///
/// # Errors
/// When the length is wrong, a character is outside the alphabet, or the number does not fit.
pub fn decode<const N: usize>(text: &[u8]) -> Result<[u8; N], Base32Error> {
    if text.len() != encoded_len(N) {
        return Err(Base32Error::Length { expected: encoded_len(N), actual: text.len() });
    }
    let mut bytes = [0; N];
    for (digit, character) in text.iter().rev().enumerate() {
        let value = ALPHABET
            .iter()
            .position(|candidate| candidate == character)
            .ok_or(Base32Error::Character(*character))?;
        for offset in 0..5 {
            if value >> offset & 1 == 0 {
                continue;
            }
            let index = digit * 5 + offset;
            *bytes.get_mut(index / 8).ok_or(Base32Error::Overflow)? |= 1 << (index % 8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_of_nothing_reads_as_nix_prints_it() {
        let empty = data_encoding::HEXLOWER
            .decode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            .unwrap();
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(encode(&empty), text);
        assert_eq!(decode::<32>(text.as_bytes()).unwrap().as_slice(), empty);
    }

    #[test]
    fn refuses_a_first_digit_that_does_not_fit() {
        let text = "2mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(decode::<32>(text.as_bytes()), Err(Base32Error::Overflow));
    }

    #[test]
    fn refuses_letters_outside_the_alphabet() {
        for letter in b"eotuEZ!\0" {
            let text = [*letter; 32];
            assert_eq!(decode::<20>(&text), Err(Base32Error::Character(*letter)));
        }
    }

    proptest! {
        #[test]
        fn every_value_survives_the_round_trip(bytes: [u8; 20]) {
            prop_assert_eq!(decode::<20>(encode(&bytes).as_bytes()), Ok(bytes));
        }
    }
}
