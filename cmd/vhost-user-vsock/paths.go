package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// parseSocketPath checks a path that is used as it is.
func parseSocketPath(s string) (string, error) {
	if err := hostsock.CheckPath(s); err != nil {
		return "", err
	}
	return s, checkDirectory(s)
}

// parseUDSPath checks a path that also gets a port behind it.
func parseUDSPath(s string) (string, error) {
	if err := hostsock.CheckBasePath(s); err != nil {
		return "", err
	}
	return s, checkDirectory(s)
}

// checkDirectory refuses a path in a directory that is not there.
func checkDirectory(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("its directory cannot be used: %w; make it or give another path", err)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory; give another path", dir)
	}
	return nil
}

// checkConflict refuses a socket of the frontend that programs or the guest
// would take for one of theirs.
func (c *config) checkConflict(flag, path string) error {
	if err := hostsock.CheckConflicts([]string{c.udsPath}, []string{path}); err != nil {
		return fmt.Errorf("%s %q: %w", flag, path, err)
	}
	return nil
}

// checkInherited finds out what --fd is.
func (c *config) checkInherited() error {
	listens, err := hostsock.Inherit(c.fd)
	switch {
	case err != nil:
		return fmt.Errorf("--fd %d: %w", c.fd, err)
	case !listens:
		c.frontend = connectedFD
		return nil
	}
	c.frontend, c.socket = listeningFD, boundPath(c.fd)
	// Any other error: the path means nothing here, as for a socket that was
	// made in another mount name space.
	if err := c.checkConflict("--fd", c.socket); errors.Is(err, hostsock.ErrConflict) {
		return err
	}
	return nil
}

// boundPath returns the name of a socket, or "" where it has none that means
// the same from everywhere.
func boundPath(fd int) string {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return ""
	}
	if name, ok := name.(*unix.SockaddrUnix); ok && filepath.IsAbs(name.Name) {
		return name.Name
	}
	return ""
}
