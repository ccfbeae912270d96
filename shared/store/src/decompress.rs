//! Decoders for what binary caches hold, with bounded memory.
//!
//! They bound memory, not output: a few bytes may still become many. The consumer knows the
//! NAR's size and has to stop there.

use std::io::{self, BufReader, Read};

use shared::nix::narinfo::Compression;

/// Memory that one xz decoder may take: enough for `xz -9`, whose dictionary has 64 MiB.
const XZ_MEMORY: u64 = 68 * 1024 * 1024;
/// Largest zstd window, as an exponent of 2: 128 MiB, the most that any level makes.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// Returns a reader of what `input` holds once decompressed.
///
/// Several streams or frames one after the other are one file, as for the programs that make
/// them. Bytes that are no stream are refused, also after a good one.
///
/// # Errors
/// When no decoder can be made.
pub fn decoder<R: Read + Send + 'static>(
    compression: Compression,
    input: R,
) -> io::Result<Box<dyn Read + Send>> {
    let input = BufReader::with_capacity(BUFFER, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Brotli => Box::new(brotli::Decompressor::new(input, BUFFER)),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
    })
}
