//! Stories of whole swarms, on a virtual clock.

mod world;

use std::time::Duration;
use world::{Character, World};

const MIB: usize = 1024 * 1024;
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn one_leecher_gets_the_image_from_one_seed() {
    let mut world = World::new(3 * MIB + 777, 65_536);
    world.seed();
    let leecher = world.leecher();
    world.run_until(MINUTE, World::all_complete);
    world.assert_byte_exact();
    let finished = world.nodes[leecher.0].finished.unwrap().since_origin();
    assert!(finished < Duration::from_millis(45), "3 MiB at 100 MB/s took {finished:?}");
}

/// 100 Mbit/s, as the links of the test bed.
const UPLINK: u64 = 12_500_000;

fn flash_crowd(leechers: usize, image_bytes: usize, piece_bytes: u32) -> World {
    let mut world = World::new(image_bytes, piece_bytes);
    world.add(world.config(true), Character { uplink: UPLINK, ..Character::default() });
    for _ in 0..leechers {
        world.add(world.config(false), Character { uplink: UPLINK, ..Character::default() });
    }
    world
}

#[test]
fn five_leechers_finish_and_the_seed_sends_little_more_than_one_copy() {
    let mut world = flash_crowd(5, 16 * MIB, 65_536);
    world.run_until(MINUTE, |world| !world.nodes[0].engine.is_revealing());
    println!("pass ended at {:?} {}", world.now, world.summary());
    world.run_until(MINUTE, World::all_complete);
    world.assert_byte_exact();
    let sent = world.nodes[0].engine.counts().uploaded_bytes;
    let last = world.nodes.iter().filter_map(|node| node.finished).max().unwrap().since_origin();
    let limit = Duration::from_secs_f64(16.0 * MIB as f64 / UPLINK as f64);
    println!(
        "last of five: {last:?}, limit {limit:?}, seed sent {:.3} copies {}",
        sent as f64 / (16 * MIB) as f64,
        world.summary()
    );
    assert!(sent < (16 * MIB) as u64 * 115 / 100, "the seed sent {sent}");
    let redundant: u64 = world.nodes.iter().map(|node| node.engine.counts().redundant_bytes).sum();
    assert!(redundant < (16 * MIB) as u64 / 50, "{redundant} bytes came twice");
}
