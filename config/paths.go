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

// parseTrace checks the path of a trace and makes it absolute.
func parseTrace(s string) (string, error) {
	path, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("%w; give an absolute path", err)
	}
	return path, checkDirectory(path)
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

// Use is what a running program does in a directory.
type Use uint8

const (
	MakeSockets Use = iota
	ReadFiles
	WriteFiles
)

// givenPath is a path of a VM and the option that gave it.
type givenPath struct {
	option, path string
	use          Use // of its directory
}

func (p givenPath) dir() string { return filepath.Dir(p.path) }

// paths are where the VM's sockets come and go, what is read for it, and what is
// written. Sockets of the service manager stay.
func (v *VM) paths() (all []givenPath) {
	if v.Activated.UDS == nil || v.Activated.Seqpacket == nil {
		all = append(all, givenPath{"uds-path", v.UDSPath, MakeSockets})
	}
	if v.Frontend == SocketFile && v.Activated.Socket == nil {
		all = append(all, givenPath{"socket", v.Socket, MakeSockets})
	}
	if v.GuestCID.File != "" {
		all = append(all, givenPath{"guest-cid", v.GuestCID.File, ReadFiles})
	}
	if v.Trace != "" {
		all = append(all, givenPath{"trace-packets", v.Trace, WriteFiles})
	}
	return all
}

// Paths are the directories that a running program works in.
func (d *Daemon) Paths() (p sandbox.Paths) {
	for _, v := range d.VMs {
		for _, given := range v.paths() {
			switch given.use {
			case MakeSockets:
				p.Sockets = append(p.Sockets, given.dir())
			case ReadFiles:
				p.Files = append(p.Files, given.dir())
			case WriteFiles:
				p.Written = append(p.Written, given.dir())
			}
		}
	}
	p.Sockets = append(p.Sockets, d.RuntimeDirs...)
	p.Files = append(p.Files, d.RuntimeDirs...)
	p.Written = append(p.Written, d.RuntimeDirs...)
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
