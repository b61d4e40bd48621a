package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
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

// checkIsDirectory refuses anything but a directory.
func checkIsDirectory(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w; make it or give another directory", err)
	case !info.IsDir():
		return errors.New("not a directory; give one")
	}
	return nil
}

// givenPath is a path of a VM and the option that gave it.
type givenPath struct {
	option, path string
	socket       bool // a socket is made there; else a file is read
}

func (p givenPath) dir() string { return filepath.Dir(p.path) }

// paths are where the VM's sockets come and go, and what is read for it. Sockets of
// the service manager stay.
func (v *VM) paths() (all []givenPath) {
	if v.Activated.UDS == nil || v.Activated.Seqpacket == nil {
		all = append(all, givenPath{"uds-path", v.UDSPath, true})
	}
	if v.Frontend == SocketFile && v.Activated.Socket == nil {
		all = append(all, givenPath{"socket", v.Socket, true})
	}
	if v.GuestCID.File != "" {
		all = append(all, givenPath{"guest-cid", v.GuestCID.File, false})
	}
	return all
}

// Paths are the directories that a running program works in.
func (d *Daemon) Paths() (p sandbox.Paths) {
	for _, v := range d.VMs {
		for _, given := range v.paths() {
			if given.socket {
				p.Sockets = append(p.Sockets, given.dir())
			} else {
				p.Files = append(p.Files, given.dir())
			}
		}
	}
	p.Sockets = append(p.Sockets, d.RuntimeDirs...)
	p.Files = append(p.Files, d.RuntimeDirs...)
	if d.File == "" {
		return p
	}
	p.Files = append(p.Files, filepath.Dir(d.File))               // for it is replaced by renaming
	for _, names := range []string{"/etc/passwd", "/etc/group"} { // of owners
		if _, err := os.Stat(names); err == nil {
			p.Files = append(p.Files, names)
		}
	}
	return p
}

// inherit finds out what FD is.
func (v *VM) inherit() error {
	listens, err := hostsock.Inherit(v.FD)
	switch {
	case err != nil:
		return err
	case listens:
		v.Frontend, v.Socket = ListeningFD, boundPath(v.FD)
	default:
		v.Frontend = ConnectedFD
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
