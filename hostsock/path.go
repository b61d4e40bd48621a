package hostsock

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// MaxPath is the longest path of a socket in bytes: what sun_path holds
	// beside its closing NUL.
	MaxPath = len(unix.RawSockaddrUnix{}.Path) - 1

	// MaxBasePath is the longest path of a socket to which the port of a guest's
	// request is added to find the socket of a host program.
	MaxBasePath = MaxPath - len("_4294967295")
)

// ErrBadPath marks a path that cannot name a socket.
var ErrBadPath = errors.New("not a path for a socket")

// CheckPath returns an error that is ErrBadPath unless a socket can be made at
// path, by its form alone.
func CheckPath(path string) error {
	_, err := temporaryName(path)
	return err
}

// CheckBasePath is CheckPath for a path to which ports are added.
func CheckBasePath(path string) error {
	if len(path) > MaxBasePath {
		return badPath(path, fmt.Sprintf("longer than the %d bytes that leave room for _PORT; choose a shorter one", MaxBasePath))
	}
	return CheckPath(path)
}

func badPath(path, why string) error {
	return fmt.Errorf("%w: %q is %s", ErrBadPath, path, why)
}

// temporaryName returns a hidden name in the directory of path that nobody can
// foresee. It shows path's own last element as far as there is room, for it is
// the name that ss(8) and getsockname(2) will show for the socket's life.
func temporaryName(path string) (string, error) {
	dir, base := filepath.Split(path)
	switch {
	case path == "":
		return "", badPath(path, "empty; give the path of a socket file")
	case base == "" || base == "." || base == "..":
		return "", badPath(path, "a directory; name a file in it")
	case strings.ContainsRune(path, 0):
		return "", badPath(path, "not a file name; remove the NUL byte")
	case path[0] == '@': // x/sys/unix, like most tools, takes it for the NUL of the abstract name space
		return "", badPath(path, "an abstract address; name a file (./@... if this is one)")
	case len(path) > MaxPath:
		return "", badPath(path, fmt.Sprintf("longer than %d bytes; choose a shorter one", MaxPath))
	}
	name := fmt.Sprintf(".%08x.", rand.Uint32())
	room := MaxPath - len(dir)
	if room < len(name) {
		return "", badPath(path, fmt.Sprintf("in a directory whose path leaves no room for a temporary name of %d bytes; choose a shorter one", len(name)))
	}
	name += base
	return dir + name[:min(len(name), room)], nil
}
