//! Decoders for what binary caches hold, with bounded memory.
//!
//! They bound memory, not output: a few bytes may still become many. The consumer knows the
//! NAR's size and has to stop there.

mod memory;
mod xz;
mod zstd;

use std::io::{self, BufRead, Read};

use shared::nix::narinfo::Compression;

pub use memory::DecoderMemory;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;
/// What a Brotli decoder takes: twice its largest window.
const BROTLI: u64 = 32 * 1024 * 1024;

/// Returns a reader of what `input` holds once decompressed, with a share of `memory`.
///
/// Several streams or frames one after the other are one file, as for the programs that make
/// them. Bytes that are no stream are refused, also after a good one. Reading blocks until there
/// is memory for the window that the file asks for; one above 128 MiB is refused.
///
/// # Errors
/// When the input fails, or no decoder can be made for it.
pub fn decoder<R: BufRead + Send + 'static>(
    compression: Compression,
    input: R,
    memory: &DecoderMemory,
) -> io::Result<Box<dyn Read + Send>> {
    let small = || memory.share(memory::LEAST);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Xz => Box::new(xz::XzReader::new(input, memory)?),
        Compression::Zstd => Box::new(zstd::ZstdReader::new(input, memory)?),
        Compression::Bzip2 => {
            Box::new(Shared(bzip2::bufread::MultiBzDecoder::new(input), small()?))
        }
        Compression::Gzip => {
            Box::new(Shared(flate2::bufread::MultiGzDecoder::new(input), small()?))
        }
        Compression::Brotli => {
            let input = with_brotli_window(input)?;
            let share = memory.share(BROTLI)?;
            Box::new(Shared(brotli::Decompressor::new(input, BUFFER), share))
        }
        Compression::Lz4 => {
            Box::new(Shared(Lz4Frames(lz4_flex::frame::FrameDecoder::new(input)), small()?))
        }
    })
}

/// Refuses what begins with a window above 16 MiB, the largest that RFC 7932 has.
///
/// The decoder also takes an extension of the format, whose windows have up to 1 GiB.
fn with_brotli_window<R: BufRead>(mut input: R) -> io::Result<R> {
    const LARGE_WINDOW: u8 = 0x11;
    if input.fill_buf()?.first().is_some_and(|first| first & 0x7f == LARGE_WINDOW) {
        let what = "its window is larger than the 16 MiB that Brotli has";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(input)
}

/// A decoder with its share of the memory, which ends with it.
struct Shared<R>(R, #[expect(dead_code, reason = "held until it is dropped")] memory::Share);

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Reads one LZ4 frame after the other; the decoder itself stops at the end of each.
struct Lz4Frames<R: Read>(lz4_flex::frame::FrameDecoder<R>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.0.read(buffer)?;
            if read > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(read);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;

    fn encode(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        match compression {
            Compression::None => output.extend_from_slice(bytes),
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(&mut output, 1);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap();
            }
            Compression::Zstd => output = ::zstd::encode_all(bytes, 1).unwrap(),
            Compression::Bzip2 => {
                let level = bzip2::Compression::fast();
                let mut encoder = bzip2::write::BzEncoder::new(&mut output, level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap();
            }
            Compression::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut output, level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap();
            }
            Compression::Brotli => {
                let mut encoder = brotli::CompressorWriter::new(&mut output, 4096, 1, 20);
                encoder.write_all(bytes).unwrap();
            }
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut output);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap();
            }
        }
        output
    }

    fn decode(compression: Compression, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decoder(compression, Cursor::new(bytes), &DecoderMemory::new(0))?
            .read_to_end(&mut output)?;
        Ok(output)
    }

    const ALL: [Compression; 7] = [
        Compression::None,
        Compression::Xz,
        Compression::Zstd,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Brotli,
        Compression::Lz4,
    ];

    fn sample() -> Vec<u8> {
        (0_u32..100_000).flat_map(|n| (n.wrapping_mul(n)).to_le_bytes()).collect()
    }

    #[test]
    fn decodes_what_was_encoded() {
        for compression in ALL {
            for bytes in [Vec::new(), b"x".to_vec(), sample()] {
                let decoded = decode(compression, encode(compression, &bytes)).unwrap();
                assert!(decoded == bytes, "{compression:?}, {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn several_streams_are_one_file() {
        for compression in ALL {
            if compression == Compression::Brotli {
                continue; // The format has no notion of that.
            }
            let mut bytes = encode(compression, b"one");
            bytes.extend(encode(compression, b"two"));
            assert_eq!(decode(compression, bytes).unwrap(), b"onetwo", "{compression:?}");
        }
    }

    #[test]
    fn refuses_bytes_that_are_no_stream() {
        for compression in ALL.into_iter().skip(1) {
            assert!(decode(compression, vec![0x55; 64]).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn refuses_bytes_behind_a_stream() {
        for compression in [Compression::Xz, Compression::Zstd, Compression::Bzip2] {
            let mut bytes = encode(compression, b"one");
            bytes.extend_from_slice(b"garbage");
            assert!(decode(compression, bytes).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn refuses_a_stream_that_is_cut() {
        for compression in [
            Compression::Xz,
            Compression::Zstd,
            Compression::Bzip2,
            Compression::Gzip,
            Compression::Brotli,
        ] {
            let mut bytes = encode(compression, &sample());
            bytes.truncate(bytes.len() / 2);
            assert!(decode(compression, bytes).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn an_xz_dictionary_of_4_gib_is_refused_before_it_is_allocated() {
        let mut bytes = encode(Compression::Xz, b"x");
        // The block header begins behind the stream header; its CRC covers all but itself.
        bytes[16] = 40;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..20]);
        bytes.splice(20..24, crc.sum().to_le_bytes());
        let error = decode(Compression::Xz, bytes).unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }

    #[test]
    fn a_zstd_window_of_1_gib_is_refused_before_it_is_allocated() {
        let bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 1, 0, 0];
        let error = decode(Compression::Zstd, bytes).unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }

    #[test]
    fn a_brotli_window_beyond_its_format_is_refused_before_it_is_allocated() {
        let parameters = brotli::enc::BrotliEncoderParams {
            lgwin: 30,
            large_window: true,
            ..Default::default()
        };
        let mut bytes = Vec::new();
        brotli::BrotliCompress(&mut &sample()[..], &mut bytes, &parameters).unwrap();
        let error = decode(Compression::Brotli, bytes).unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }
}
