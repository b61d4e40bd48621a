package hostsock

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrConflict marks a path that another path of the process lays claim to.
var ErrConflict = errors.New("conflict of socket paths")

// place is where a path leads: directories are told apart by their inodes, so
// that links and mounts make no difference.
type place struct {
	dir  fileID
	name string
}

func placeOf(path string) (place, error) {
	dir := filepath.Dir(path)
	id, err := identify(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return place{}, fmt.Errorf("directory %s of socket %s: %w", dir, path, err)
	}
	return place{id, filepath.Base(path)}, nil
}

// SamePlace reports whether two paths lead to the same name. Those in directories
// that are not there lead nowhere.
func SamePlace(a, b string) bool {
	first, err := placeOf(a)
	if err != nil {
		return false
	}
	second, err := placeOf(b)
	return err == nil && first == second
}

// CheckConflicts returns an error that is ErrConflict if two of a process's
// sockets would meet: if a path is given twice, or if one is where the guest of
// a path in uds finds the sockets of host programs, <path>_<digits> and
// <path>_seqpacket. uds are the --uds-path of all VMs, others all other paths.
// The directories must exist.
func CheckConflicts(uds, others []string) error {
	paths := slices.Concat(uds, others)
	places := make(map[place]string, len(paths))
	guests := make(map[place]string, len(uds)) // the places of uds
	for i, path := range paths {
		at, err := placeOf(path)
		if err != nil {
			return err
		}
		if twin, ok := places[at]; ok {
			return fmt.Errorf("%w: %s and %s are the same; choose another path for one", ErrConflict, twin, path)
		}
		places[at] = path
		if i < len(uds) {
			guests[at] = path
		}
	}
	for at, path := range places {
		base, ok := cutGuestSuffix(at.name)
		if !ok {
			continue
		}
		if guest, ok := guests[place{at.dir, base}]; ok {
			return fmt.Errorf("%w: %s is where the guest of %s looks for a host program; choose another path",
				ErrConflict, path, guest)
		}
	}
	return nil
}

// cutGuestSuffix returns name without the suffix that leads from the name of a
// VM's socket to those of host programs.
func cutGuestSuffix(name string) (base string, ok bool) {
	i := strings.LastIndexByte(name, '_')
	if i < 0 {
		return "", false
	}
	suffix := name[i+1:]
	return name[:i], suffix == "seqpacket" || suffix != "" && strings.Trim(suffix, "0123456789") == ""
}
