use super::{Fat, time};
use crate::blocks::ReadAt;

#[test]
fn dates_of_dos() {
    // 2024-02-29 12:34:56 UTC
    assert_eq!(time(44 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28).seconds, 1_709_210_096);
    assert_eq!(time(1 << 5 | 1, 0).seconds, 315_532_800);
    assert_eq!(time(0, 0).seconds, 315_532_800 - 31 * 86_400);
}

#[test]
fn a_boot_sector_of_nonsense_is_refused() {
    for fill in [0_u8, 1, 0x7F, 0xFF] {
        let read: &ReadAt<'_> = &|_, bytes: &mut [u8]| {
            bytes.fill(fill);
            Ok(())
        };
        assert!(Fat::open(read, 1 << 20).is_err(), "{fill}");
    }
}
