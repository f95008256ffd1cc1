//! Which part of which volume kubelet bind-mounted for a `subPath`, read from the kernel's table of mounts.

use std::path::{Path, PathBuf};

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    device: String,
    root: PathBuf,
    point: PathBuf,
}

/// Finds the path of the bind mount at `sub_path` inside one of `volumes`; all paths without symbolic links.
///
/// Both are places in a file system: of the bind mount the table says which, of a volume it follows from the mount that
/// covers it. Where the first lies inside the second, the difference is the path.
pub(crate) fn find_part<'a>(
    mountinfo: &str,
    sub_path: &Path,
    volumes: &'a [PathBuf],
) -> Option<(&'a Path, String)> {
    let table: Vec<Mounted> = mountinfo.lines().filter_map(parse).collect();
    let bind = table.iter().rfind(|mounted| mounted.point == sub_path)?;
    volumes.iter().find_map(|volume| {
        let cover = covering(&table, volume)?;
        let place = cover.root.join(volume.strip_prefix(&cover.point).ok()?);
        let inside = bind.root.strip_prefix(&place).ok().filter(|_| cover.device == bind.device)?;
        Some((volume.as_path(), inside.to_str()?.to_owned()))
    })
}

/// The mount that is seen at `path`: the deepest, and of several at one point the last.
fn covering<'a>(table: &'a [Mounted], path: &Path) -> Option<&'a Mounted> {
    let depth = |mounted: &&Mounted| mounted.point.components().count();
    table.iter().filter(|mounted| path.starts_with(&mounted.point)).max_by_key(depth)
}

fn parse(line: &str) -> Option<Mounted> {
    let mut fields = line.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    Some(Mounted { device, root: unescape(fields.next()?)?, point: unescape(fields.next()?)? })
}

/// Undoes the kernel's octal escapes of space, tab, line feed and backslash.
fn unescape(text: &str) -> Option<PathBuf> {
    let mut parts = text.split('\\');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..3)?, 8).ok()?;
        plain.push(char::from(code));
        plain.push_str(part.get(3..)?);
    }
    Some(PathBuf::from(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUB: &str = "/k/pods/u/volume-subpaths/cache/app/0";

    fn volumes() -> Vec<PathBuf> {
        vec![PathBuf::from("/k/pods/u/volumes/kubernetes.io~empty-dir/cache")]
    }

    fn find(mountinfo: &str) -> Option<String> {
        find_part(mountinfo, Path::new(SUB), &volumes()).map(|(_, path)| path)
    }

    #[test]
    fn a_part_of_a_directory_on_the_root_file_system_is_found() {
        let table = format!(
            "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             90 22 254:1 /k/pods/u/volumes/kubernetes.io~empty-dir/cache/a/b {SUB} rw - ext4 /dev/vda1 rw\n"
        );
        assert_eq!(find(&table).as_deref(), Some("a/b"));
    }

    #[test]
    fn a_part_of_a_tmpfs_volume_is_found() {
        let table = format!(
            "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             80 22 0:50 / /k/pods/u/volumes/kubernetes.io~empty-dir/cache rw - tmpfs tmpfs rw\n\
             90 22 0:50 /a\\040b {SUB} rw - tmpfs tmpfs rw\n"
        );
        assert_eq!(find(&table).as_deref(), Some("a b"));
    }

    #[test]
    fn a_mount_of_something_else_is_no_part() {
        let table =
            format!("22 1 254:1 / / rw - ext4 /dev/vda1 rw\n90 22 254:1 /etc {SUB} rw - ext4 /dev/vda1 rw\n");
        assert_eq!(find(&table), None);
    }

    #[test]
    fn the_same_path_on_another_device_is_no_part() {
        let table = format!(
            "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             90 22 254:2 /k/pods/u/volumes/kubernetes.io~empty-dir/cache/a {SUB} rw - ext4 /dev/vda2 rw\n"
        );
        assert_eq!(find(&table), None);
    }
}
