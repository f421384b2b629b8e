//! The checkout that the tool works in, and its `.flash/`.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the checkout: the workspace around the current directory. Outside of one it is the workspace of
/// the package that cargo runs, and for a binary started by hand the one that it was built in.
#[must_use]
pub fn root() -> PathBuf {
    let current = env::current_dir().ok();
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    find_root(current.as_deref(), package.as_deref(), Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// `.flash/` of the checkout. `FLASH_DIRECTORY` names another directory, for a container, which has no checkout.
#[must_use]
pub fn directory() -> PathBuf {
    env::var_os("FLASH_DIRECTORY").map_or_else(|| root().join(".flash"), PathBuf::from)
}

fn find_root(current: Option<&Path>, package: Option<&Path>, built: &Path) -> PathBuf {
    let is_workspace =
        |directory: &&Path| directory.join("Cargo.toml").is_file() && directory.join("bins/flash").is_dir();
    let around = current.and_then(|current| current.ancestors().find(is_workspace));
    // A package `bins/flash` is two levels below its root.
    let root = around.or_else(|| package.unwrap_or(built).ancestors().nth(2));
    root.unwrap_or(built).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_checkout_comes_before_the_one_it_was_built_in() {
        let scratch = testkit::scratch::Scratch::new("checkout").expect("a directory");
        let (other, deep) = (scratch.path().join("other"), scratch.path().join("other/libs/domain/src"));
        std::fs::create_dir_all(&deep).expect("a directory");
        let (package, built) = (Path::new("/run/bins/flash"), Path::new("/built/bins/flash"));
        // A directory is a workspace only with both `Cargo.toml` and `bins/flash`.
        std::fs::write(other.join("Cargo.toml"), "").expect("a file");
        assert_ne!(find_root(Some(&deep), Some(package), built), other);
        std::fs::create_dir_all(other.join("bins/flash")).expect("a directory");
        for inside in [other.as_path(), &other.join("bins/flash"), &deep] {
            assert_eq!(find_root(Some(inside), Some(package), built), other);
        }
        scratch.remove();
    }

    #[test]
    fn outside_of_a_checkout_it_is_the_package_of_cargo_then_the_one_it_was_built_in() {
        let (package, built) = (Path::new("/run/bins/flash"), Path::new("/built/bins/flash"));
        assert_eq!(find_root(Some(Path::new("/")), Some(package), built), Path::new("/run"));
        assert_eq!(find_root(Some(Path::new("/")), None, built), Path::new("/built"));
        assert_eq!(find_root(None, None, built), Path::new("/built"));
    }
}
