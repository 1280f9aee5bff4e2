//! Bytes and numbers for people.

pub(crate) use image_source::printable as path;

/// `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Beyond these years (about 1200 and 9999) a time is shown as a number.
const SECONDS_SHOWN: std::ops::Range<i64> = -24_000_000_000..253_402_300_800;

/// `2024-05-01 12:30:00` in UTC, from seconds since 1970; `@SECONDS` far from now.
pub(crate) fn time(seconds: i64) -> String {
    if !SECONDS_SHOWN.contains(&seconds) {
        return format!("@{seconds}");
    }
    let (mut days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += days_of_year(year);
    }
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let february = days_of_year(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}", days + 1)
}

const fn days_of_year(year: i64) -> i64 {
    if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(time(-1), "1969-12-31 23:59:59");
        assert_eq!(time(1_704_067_199), "2023-12-31 23:59:59");
        assert_eq!(time(i64::MAX), format!("@{}", i64::MAX));
        assert_eq!(time(1_767_225_600), "2026-01-01 00:00:00");
    }
}
