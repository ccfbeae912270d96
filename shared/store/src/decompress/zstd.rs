//! Zstandard: the window is read from the first frame's header, before anything is allocated.

use std::io::{self, BufRead, Chain, Cursor, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::memory::{DecoderMemory, LEAST, Share};

/// Length of the longest frame header.
const HEADER_LEN: usize = 18;

/// Decodes frames, one after the other.
pub(super) struct ZstdReader<R> {
    input: Chain<Cursor<Vec<u8>>, R>,
    /// Always there, until it is given back.
    decoder: Option<Decoder<'static>>,
    /// Whether the input may end here.
    between_frames: bool,
    share: Share,
}

impl<R> Drop for ZstdReader<R> {
    fn drop(&mut self) {
        if let Some(decoder) = self.decoder.take() {
            self.share.put_back(decoder);
        }
    }
}

impl<R: BufRead> ZstdReader<R> {
    pub(super) fn new(mut input: R, memory: &DecoderMemory) -> io::Result<Self> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        input.by_ref().take(HEADER_LEN as u64).read_to_end(&mut header)?;
        // A decoder's limit is a power of two. Later frames have the same one, so that they
        // cannot take more than the share; what makes several frames gives all one window.
        let window = window_size(&header).unwrap_or_default().max(LEAST);
        let limit = window.checked_next_power_of_two().unwrap_or(u64::MAX);
        let share = memory.share(limit)?;
        let mut decoder = share.context()?;
        decoder.set_parameter(DParameter::WindowLogMax(limit.ilog2()))?;
        // Every byte that comes out is hashed with SHA-256; the frame's own checksum would say less.
        decoder.set_parameter(DParameter::ForceIgnoreChecksum(true))?;
        let input = Cursor::new(header).chain(input);
        Ok(Self { input, decoder: Some(decoder), between_frames: true, share })
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(decoder) = self.decoder.as_mut().filter(|_| !buffer.is_empty()) else {
            return Ok(0);
        };
        loop {
            let available = self.input.fill_buf()?;
            let ends = available.is_empty();
            if ends && self.between_frames {
                return Ok(0);
            }
            let mut input = InBuffer::around(available);
            let mut output = OutBuffer::around(&mut *buffer);
            let expected = decoder.run(&mut input, &mut output)?;
            let (read, written) = (input.pos(), output.pos());
            self.input.consume(read);
            self.between_frames = expected == 0;
            if written > 0 {
                return Ok(written);
            }
            if ends && !self.between_frames {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
            }
        }
    }
}

/// Reads how much memory a frame refers back to, from the first bytes of it (RFC 8878, 3.1.1.1).
///
/// Returns nothing for bytes that are no such header; the decoder says then what they are.
fn window_size(header: &[u8]) -> Option<u64> {
    let rest = header.strip_prefix(&0xFD2F_B528_u32.to_le_bytes())?;
    let (descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let window = rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // Without a window of its own the frame is its window, and says how long it is.
    let dictionary_id = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let field = rest.get(*dictionary_id..)?;
    let length = [1, 2, 4, 8].get(usize::from(descriptor >> 6))?;
    let mut size = [0; 8];
    size.get_mut(..*length)?.copy_from_slice(field.get(..*length)?);
    let size = u64::from_le_bytes(size);
    Some(if *length == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty frame with a window of 2 to the power of `log`.
    fn empty_frame(log: u8) -> Vec<u8> {
        vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0]
    }

    #[test]
    fn the_window_is_in_the_header() {
        for log in [10, 17, 23, 27, 41] {
            assert_eq!(window_size(&empty_frame(log)), Some(1 << log), "window log {log}");
        }
        assert_eq!(window_size(b"\x28\xb5\x2f\xfd\0\x07"), Some(1024 / 8 * 15));
    }

    #[test]
    fn the_window_is_what_a_real_encoder_chooses() {
        let bytes: Vec<u8> = (0_u32..3_000_000).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let compressed = zstd::stream::encode_all(&*bytes, 3).unwrap();
        assert_eq!(window_size(&compressed), Some(2 << 20));
    }

    #[test]
    fn a_frame_that_is_its_own_window_says_its_length() {
        for length in [0, 1, 255, 256, 65_791, 65_792, 100_000] {
            let bytes = zstd::bulk::compress(&vec![7; length], 1).unwrap();
            assert_eq!(window_size(&bytes), Some(length as u64));
        }
    }

    #[test]
    fn other_bytes_have_no_window() {
        for bytes in [&b""[..], b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x00", &[0x55; 18]] {
            assert_eq!(window_size(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_later_frame_takes_no_more_than_the_share() {
        let mut bytes = zstd::bulk::compress(b"one", 1).unwrap();
        bytes.extend(empty_frame(24));
        let memory = DecoderMemory::new(LEAST);
        let mut decoded = Vec::new();
        let result = ZstdReader::new(&*bytes, &memory).unwrap().read_to_end(&mut decoded);
        assert!(result.unwrap_err().to_string().contains("memory"));
        assert_eq!(decoded, b"one");
    }
}
