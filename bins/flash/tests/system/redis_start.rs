//! Redis starts from whatever a power loss has left of its append-only file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::scratch::{Scratch, programs};
use testkit::{Redis, Signal};

/// Keys written before the damage.
const KEYS: usize = 500;

/// The damage, what it does to the directory of the files, the keys that may be left, and whether the files are set
/// aside.
type Case = (&'static str, fn(&Path) -> Result<()>, RangeInclusive<usize>, bool);

/// Bytes of a page of memory: the unit in which the kernel writes.
const PAGE: usize = 4096;

fn append(directory: &Path, bytes: &[u8]) -> Result<()> {
    let file = directory.join("appendonly.aof.1.incr.aof");
    Ok(OpenOptions::new().append(true).open(file)?.write_all(bytes)?)
}

fn change(directory: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let file = directory.join(file);
    let mut bytes = fs::read(&file).with_context(|| file.display().to_string())?;
    change(&mut bytes);
    Ok(fs::write(&file, bytes)?)
}

const CASES: [Case; 9] = [
    ("nothing", |_| Ok(()), KEYS..=KEYS, false),
    ("the last page was never written", |files| append(files, &[0; PAGE]), KEYS..=KEYS, false),
    ("the file ends in garbage", |files| append(files, b"$5\r\n\xff\xfe*3\r\ngarbage"), KEYS..=KEYS, false),
    (
        "the file ends within a command",
        |files| change(files, "appendonly.aof.1.incr.aof", |bytes| bytes.truncate(bytes.len() - 5)),
        KEYS - 1..=KEYS - 1,
        false,
    ),
    (
        "a page in the middle was never written",
        |files| change(files, "appendonly.aof.1.incr.aof", |bytes| bytes[PAGE..2 * PAGE].fill(0)),
        1..=KEYS - 1,
        false,
    ),
    ("the file is gone", |files| Ok(fs::remove_file(files.join("appendonly.aof.1.incr.aof"))?), 0..=0, true),
    (
        "the base is damaged",
        |files| change(files, "appendonly.aof.1.base.rdb", |bytes| bytes.truncate(bytes.len() - 9)),
        0..=0,
        true,
    ),
    ("the manifest is empty", |files| change(files, "appendonly.aof.manifest", Vec::clear), 0..=0, true),
    (
        "the manifest was never written",
        |files| change(files, "appendonly.aof.manifest", |text| text.fill(0)),
        0..=0,
        true,
    ),
];

async fn check((damage, apply, left, set_aside): &Case) -> Result<()> {
    let scratch = Scratch::new("redis-start")?;
    let mut redis = Redis::alone(&programs()?, scratch.path()).await?;
    let client = redis.client()?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    for key in 0..KEYS {
        redis::cmd("SET").arg(key).arg("x".repeat(20)).query_async::<()>(&mut connection).await?;
    }
    // A stop in order, after which the whole file is written.
    ensure!(redis.process.stop(Signal::Terminate, Duration::from_secs(5)), "Redis did not stop");
    let data = scratch.path().join("redis");
    apply(&data.join("appendonlydir"))?;

    // Twice: what was set aside must not be in the way of the next start.
    for start in 1..=2 {
        redis.restart().await.with_context(|| format!("start {start}"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let keys: usize = redis::cmd("DBSIZE").query_async(&mut connection).await?;
        ensure!(left.contains(&keys), "{damage}: {keys} keys are left after start {start}");
    }
    assert_eq!(data.join("appendonlydir.broken").exists(), *set_aside, "{damage}");
    drop(redis);
    scratch.remove();
    Ok(())
}

#[tokio::test]
async fn redis_starts_from_every_damaged_file() -> Result<()> {
    for case in &CASES {
        check(case).await.context(case.0)?;
    }
    Ok(())
}
