//! Real programs for the guest: Debian's redis, sqlite3 and python3 with its tests, as packaged, with every package that they
//! cannot do without.

use super::debian;
use super::tree::Tree;

const PACKAGES: [&str; 5] = ["redis-server", "redis-tools", "sqlite3", "python3", "libpython3-stdlib"];
/// What no program reads.
const LEFT_OUT: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"];

/// Adds them.
pub(crate) fn add(tree: &mut Tree) -> Result<(), String> {
    // The tests are in a package that is named for the version of Python, `libpython3.11-testsuite`.
    let packages = debian::closure(&PACKAGES)?;
    let stdlib =
        packages.iter().find_map(|name| name.strip_suffix("-stdlib").filter(|name| name.contains('.')));
    let tests = format!("{}-testsuite", stdlib.ok_or("python3 depends on no libpython3.*-stdlib")?);
    let mut all = PACKAGES.to_vec();
    all.push(&tests);
    let packages = debian::closure(&all)?;
    let wanted = |path: &str| path != ".unpacked" && !LEFT_OUT.contains(&path);
    for folder in debian::all_unpacked(&packages)? {
        tree.copy(&folder, &wanted)?;
    }
    Ok(())
}
