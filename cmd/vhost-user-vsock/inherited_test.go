package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inheritFile passes f to the process as descriptor 3.
func inheritFile(f *os.File) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{f} }
}

// listenInherited returns a listening socket that the caller closes once the
// program has it.
func listenInherited(t *testing.T, name string) *os.File {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestProcessInheritsAListeningSocket(t *testing.T) {
	inTempDir(t)
	f := listenInherited(t, "inherited")
	p := startProcess(t, inheritFile(f), "--fd", "3", "--uds-path", "u")
	f.Close()
	for range 2 {
		frontend := dial(t, "inherited")
		expectAnswer(t, frontend)
		frontend.Close()
	}
	p.await(t, "u")
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "inherited") // its maker removes it
}

// inheritedPair starts the program with one end of a connection and returns
// the other.
func inheritedPair(t *testing.T) (*process, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(fds[0]), "frontend")
	defer ours.Close()
	frontend, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { frontend.Close() })
	frontend.SetDeadline(time.Now().Add(testLimit))
	return startInherited(t, fds[1]), frontend
}

// startInherited starts the program with a connected socket, whose ownership
// it takes.
func startInherited(t *testing.T, fd int) *process {
	t.Helper()
	f := os.NewFile(uintptr(fd), "backend")
	defer f.Close()
	return startProcess(t, inheritFile(f), "--fd", "3", "--uds-path", "u")
}

func TestProcessEndsWithItsInheritedSession(t *testing.T) {
	inTempDir(t)
	p, frontend := inheritedPair(t)
	expectAnswer(t, frontend)
	expectFiles(t, "u", "u_seqpacket")
	frontend.Close()
	p.expectExit(t, exitOK, testLimit)
	expectFiles(t)
}

func TestProcessEndsWithAnInheritedSessionThatSaidNothing(t *testing.T) {
	inTempDir(t)
	p, frontend := inheritedPair(t)
	p.await(t, "u")
	frontend.Close()
	p.expectExit(t, exitOK, testLimit)
	expectFiles(t)
}

func TestProcessEndsBySignalInItsInheritedSession(t *testing.T) {
	inTempDir(t)
	p, frontend := inheritedPair(t)
	expectAnswer(t, frontend)
	p.stop(t, unix.SIGTERM)
	expectEOF(t, frontend)
	expectFiles(t)
}
