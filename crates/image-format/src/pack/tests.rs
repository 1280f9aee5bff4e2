use super::{PackedFrame, Packer};
use crate::container::{CONTAINER_BYTES, FRAME_RAW_BYTES_MAX};
use crate::id::Hash;

/// Bytes that compress to about `keep` sixteenths.
fn stream(len: usize, keep: u64) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&if state % 16 < keep { state } else { 0 }.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn pack(stream: &[u8], start: u64, step: usize) -> (Vec<PackedFrame>, Vec<u8>) {
    let mut packer = Packer::new(Vec::new(), 1, start).unwrap();
    stream.chunks(step).for_each(|part| packer.push(part).unwrap());
    let (frames, output, end) = packer.finish().unwrap();
    assert_eq!(end, start + output.len() as u64);
    (frames, output)
}

/// Every rule of the format, and that containers are nearly full.
fn check(len: usize, keep: u64, start: u64) {
    let stream = stream(len, keep);
    let (frames, output) = pack(&stream, start, 100_000);
    assert_eq!((frames.clone(), output.clone()), pack(&stream, start, 7_777_777), "however it is pushed");
    let mut raw = Vec::new();
    let mut end = start;
    for frame in &frames {
        let last = frame.offset + u64::from(frame.len) - 1;
        assert_eq!(frame.offset / CONTAINER_BYTES, last / CONTAINER_BYTES, "within a container");
        assert!(frame.raw_len <= FRAME_RAW_BYTES_MAX);
        let from = usize::try_from(frame.offset - start).unwrap();
        let bytes = &output[from..from + frame.len as usize];
        assert_eq!(Hash::of(bytes), frame.hash);
        raw.extend(zstd::bulk::decompress(bytes, frame.raw_len as usize).unwrap());
        let gap = frame.offset - end;
        assert!(gap == 0 || (8..70_000).contains(&gap), "a pad of {gap}");
        end = last + 1;
    }
    assert!(raw == stream);
    if !output.is_empty() {
        let all = zstd::stream::decode_all(output.as_slice()).unwrap();
        assert!(all == stream, "one stream for any zstd");
    }
}

#[test]
fn streams_of_every_kind_fill_containers() {
    check(0, 0, 0);
    check(1, 16, 96);
    check(200, 16, CONTAINER_BYTES - 100);
    check(11 << 20, 16, 12_345);
    check(40 << 20, 0, CONTAINER_BYTES - 65_000);
    check(30 << 20, 5, 3 * CONTAINER_BYTES + 1_000_000);
    check((9 << 20) + 13, 11, 0);
}

#[test]
fn pads_take_less_than_a_thousandth() {
    let (frames, output) = pack(&stream(40 << 20, 8), 0, 1 << 20);
    let frames: u64 = frames.iter().map(|frame| u64::from(frame.len)).sum();
    let pads = output.len() as u64 - frames;
    assert!(pads * 1000 < output.len() as u64, "{pads} of {}", output.len());
}
