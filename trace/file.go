package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FormerSuffix is behind the name of a trace that a newer one took the place of.
const FormerSuffix = ".old"

// create makes a file at path, for its owner alone. A regular file that is there is
// renamed, for it may be the trace that tells why the program had to start again; only
// the one before that is lost. The new file is never one that somebody else has made,
// nor behind a link: others would read what they must not, or be written over.
func create(path string) (*os.File, error) {
	there, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !there.Mode().IsRegular():
		return nil, fmt.Errorf("%s is there and is not a regular file; give another path", path)
	default:
		if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, path+FormerSuffix, 0); err != nil {
			return nil, fmt.Errorf("keep the former %s as %[1]s%s: %w", path, FormerSuffix, err)
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
