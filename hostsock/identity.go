package hostsock

import "golang.org/x/sys/unix"

// fileID tells files apart, whatever their names.
type fileID struct{ dev, ino uint64 }

// identify is fstatat(2).
func identify(dirfd int, path string, flags int) (fileID, error) {
	var st unix.Stat_t
	err := call("fstatat", func() error { return unix.Fstatat(dirfd, path, &st, flags) })
	return fileID{st.Dev, st.Ino}, err
}
