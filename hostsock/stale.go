package hostsock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What may be in the way of a new socket.
var (
	ErrInUse     = errors.New("a program is listening on it; stop that program or choose another path")
	ErrNotSocket = errors.New("what exists there is not a socket; move it away or choose another path")
	ErrNotKnown  = errors.New("no way to tell whether a program is listening on it; remove it if none is")
)

// replaceStale gives the socket its name if a stale socket has that name now.
func (l *Listener) replaceStale(path string, kind int) error {
	defer lockDirectory(filepath.Dir(path))()

	switch err := checkStale(path, kind); {
	case errors.Is(err, unix.ENOENT): // removed since
		return l.rename(path, unix.RENAME_NOREPLACE)
	case err != nil:
		return err
	}
	return l.exchange(path, kind)
}

// exchange changes names with the stale socket at path and removes that one.
// There is no time without a socket at path, and should what comes out not be
// stale, it can be put back.
func (l *Listener) exchange(path string, kind int) error {
	temp := l.Path
	if err := l.rename(path, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if err := checkStale(temp, kind); err != nil { // bound since, by a program that knows no lock
		if back := l.rename(temp, unix.RENAME_EXCHANGE); back != nil {
			return fmt.Errorf("put back what is now %s: %w", temp, back)
		}
		return err
	}
	return call("unlink", func() error { return unix.Unlink(temp) })
}

// checkStale returns nil if path is a socket that refuses connections, ENOENT
// if it does not exist, and else why it must stay.
func checkStale(path string, kind int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if what := info.Mode().Type(); what != os.ModeSocket {
		return fmt.Errorf("%w (it is a %s)", ErrNotSocket, describe(what))
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	err = call("connect", func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	case err == nil,
		errors.Is(err, unix.EAGAIN),     // its backlog is full
		errors.Is(err, unix.EPROTOTYPE): // it is of another type
		return ErrInUse
	case errors.Is(err, unix.ENOENT):
		return err
	default:
		return fmt.Errorf("%w (%w)", ErrNotKnown, err)
	}
}

func describe(what os.FileMode) string {
	switch what {
	case 0:
		return "regular file"
	case os.ModeDir:
		return "directory"
	case os.ModeSymlink:
		return "symbolic link"
	default:
		return "special file"
	}
}

// lockPatience bounds the wait for the lock of a directory.
const lockPatience = time.Second

// lockDirectory keeps others who replace a stale socket in dir, processes or
// goroutines, out until the returned function is called. Two that meet are told
// apart by exchanging back, but of three one could end without its name.
//
// In a directory like /tmp anybody may hold the lock, hence the patience: then,
// as in a directory that cannot be locked at all, it goes on without.
func lockDirectory(dir string) (unlock func()) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	for end := time.Now().Add(lockPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
			break
		}
	}
	return func() { unix.Close(fd) }
}
