package hostsock

import (
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"
)

// Options are the properties of a listening socket.
type Options struct {
	Mode     os.FileMode // permission bits of the file, exact whatever the umask
	UID, GID int         // owner of the file; -1: as created
	Type     int         // SOCK_STREAM or SOCK_SEQPACKET
	Backlog  int         // of listen(2); the kernel lowers it to its own limit
	// Registry, if not nil, knows the socket before it has its name. To be removed
	// by the caller before the socket is closed.
	Registry *Registry
}

// Listener is a listening socket and its name in the file system. It owns both.
type Listener struct {
	FD   int    // the socket, -1 after Take
	Path string // its name

	// file is an O_PATH descriptor of the name's inode. As long as it is open no
	// other file can have the inode's number, so the name is ours exactly if it
	// has that number.
	file int
}

// Listen returns a non-blocking socket that listens at path. The name appears
// with its mode and owner and accepting connections. If it exists already, the
// error is ErrInUse, ErrNotSocket or ErrNotKnown, unless the socket there is
// stale: then ours takes its place at once, with no time between without one.
func Listen(path string, o Options) (*Listener, error) {
	l, err := listen(path, o)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, o Options) (_ *Listener, err error) {
	temp, err := temporaryName(path)
	if err != nil {
		return nil, err
	}
	l := &Listener{FD: -1, Path: temp, file: -1}
	defer func() {
		if err != nil {
			_ = l.Close() // err says more
		}
	}()

	if l.FD, err = unix.Socket(unix.AF_UNIX, o.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := l.bind(o.Mode.Perm()); err != nil {
		return nil, err
	}
	if err := l.setAccess(o); err != nil {
		return nil, err
	}
	if err := call("listen", func() error { return unix.Listen(l.FD, o.Backlog) }); err != nil {
		return nil, err
	}
	if o.Registry == nil {
		return l, l.publish(path, o.Type)
	}
	id, err := identify(l.file, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	o.Registry.add(id, path)
	if err = l.publish(path, o.Type); err != nil {
		o.Registry.remove(id)
	}
	return l, err
}

// bind makes the file under the temporary name.
func (l *Listener) bind(mode os.FileMode) error {
	// The file gets the mode of the socket, narrowed by the umask: it is never
	// open to more than it shall be.
	if err := call("fchmod", func() error { return unix.Fchmod(l.FD, uint32(mode)) }); err != nil {
		return err
	}
	if err := call("bind", func() error { return unix.Bind(l.FD, &unix.SockaddrUnix{Name: l.Path}) }); err != nil {
		return fmt.Errorf("%w (its directory must exist and be writable)", err)
	}
	err := call("open", func() (err error) {
		l.file, err = unix.Open(l.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		_ = unix.Unlink(l.Path) // Close cannot know it without file
	}
	return err
}

// setAccess sets mode and owner of the file, by descriptor: in a directory of
// somebody else the name may have become a link to anything.
func (l *Listener) setAccess(o Options) error {
	var st unix.Stat_t
	if err := call("fstat", func() error { return unix.Fstat(l.file, &st) }); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s was replaced: %w", l.Path, ErrNotSocket)
	}
	if mode := uint32(o.Mode.Perm()); st.Mode&^unix.S_IFMT != mode { // narrowed by the umask
		file := fmt.Sprintf("/proc/self/fd/%d", l.file)
		if err := call("chmod", func() error { return unix.Chmod(file, mode) }); err != nil {
			return fmt.Errorf("mode %#o: %w", mode, err)
		}
	}
	if o.UID == -1 && o.GID == -1 {
		return nil
	}
	if err := call("fchownat", func() error {
		return unix.Fchownat(l.file, "", o.UID, o.GID, unix.AT_EMPTY_PATH)
	}); err != nil {
		return fmt.Errorf("owner %d:%d: %w", o.UID, o.GID, err)
	}
	return nil
}

// publish gives the listening socket its name.
func (l *Listener) publish(path string, kind int) error {
	err := l.rename(path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return l.replaceStale(path, kind)
	}
	return err
}

// rename is renameat2(2) of the file; Path follows it.
func (l *Listener) rename(path string, flags uint) error {
	err := call("renameat2", func() error {
		return unix.Renameat2(unix.AT_FDCWD, l.Path, unix.AT_FDCWD, path, flags)
	})
	switch {
	case err == nil:
		l.Path = path
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("%w (this file system cannot rename without replacing; choose a path on another, such as /run)", err)
	}
	return err
}

// Take returns the socket and passes its ownership to the caller; the name
// stays with the Listener.
func (l *Listener) Take() int {
	fd := l.FD
	l.FD = -1
	return fd
}

// Close removes the name, unless it has become somebody else's, and closes the
// socket unless it was taken. It may be called again.
func (l *Listener) Close() error {
	var errs *multierror.Error
	if l.file >= 0 {
		errs = multierror.Append(errs, l.unlink(), os.NewSyscallError("close", unix.Close(l.file)))
		l.file = -1
	}
	if l.FD >= 0 {
		errs = multierror.Append(errs, os.NewSyscallError("close", unix.Close(l.Take())))
	}
	return errs.ErrorOrNil()
}

func (l *Listener) unlink() error {
	own, err := identify(l.file, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	there, err := identify(unix.AT_FDCWD, l.Path, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT) || err == nil && there != own:
		return nil
	case err != nil:
		return fmt.Errorf("remove socket %s: %w", l.Path, err)
	}
	if err := call("unlink", func() error { return unix.Unlink(l.Path) }); err != nil {
		return fmt.Errorf("remove socket %s: %w", l.Path, err)
	}
	return nil
}
