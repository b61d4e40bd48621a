package sandbox_test

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestForbiddenCalls(t *testing.T) {
	raw := func(number, a, b, c uintptr) error {
		if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
			return errno
		}
		return nil
	}
	alone(t, func(t *testing.T) {
		parent := os.Getppid()
		page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		enter(t)

		// Each would succeed, or fail in another way, outside: tried there by
		// leaving out enter.
		for _, tt := range []struct {
			name string
			want error
			call func() error
		}{
			{"execve", unix.EPERM, func() error { return syscall.Exec("/nowhere", nil, nil) }},
			{"execveat", unix.EPERM, func() error { return raw(unix.SYS_EXECVEAT, 0, 0, 0) }},
			{"fork", unix.EPERM, func() error {
				_, err := syscall.ForkExec("/nowhere", nil, nil)
				return err
			}},
			{"ptrace", unix.EPERM, func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_CONT, 0, 0) }},
			{"process_vm_readv", unix.EPERM, func() error { return raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), 0, 0) }},
			{"signal to the parent", unix.EPERM, func() error { return unix.Kill(parent, 0) }},
			{"signal to a thread of the parent", unix.EPERM, func() error { return unix.Tgkill(parent, parent, 0) }},
			{"executable mapping", unix.EPERM, func() error {
				_, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
				return err
			}},
			{"mapping made executable", unix.EPERM, func() error { return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC) }},
			{"memfd_create", unix.EPERM, func() error { return raw(unix.SYS_MEMFD_CREATE, 0, 0, 0) }},
			{"io_uring_setup", unix.EPERM, func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0, 0) }},
			{"unshare", unix.EPERM, func() error { return unix.Unshare(0) }},
			{"setns", unix.EPERM, func() error { return unix.Setns(-1, 0) }},
			{"capset", unix.EPERM, func() error { return raw(unix.SYS_CAPSET, 0, 0, 0) }},
			{"prctl", unix.EPERM, func() error { return unix.Prctl(unix.PR_GET_DUMPABLE, 0, 0, 0, 0) }},
			{"ioctl of a terminal", unix.EPERM, func() error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) }},
			{"setuid", unix.EPERM, func() error { return raw(unix.SYS_SETUID, ^uintptr(0), 0, 0) }},
			{"mkdir", unix.EPERM, func() error { return unix.Mkdir(socketsDir, 0o700) }},
			{"truncate", unix.EPERM, func() error { return unix.Truncate("", 0) }},
			{"clone3", unix.ENOSYS, func() error { return raw(unix.SYS_CLONE3, 0, 0, 0) }},
		} {
			t.Run(tt.name, func(t *testing.T) { expectErrno(t, tt.call(), tt.want) })
		}
	})
}

func TestForbiddenSockets(t *testing.T) {
	alone(t, func(t *testing.T) {
		enter(t)
		// AF_VSOCK is not tried, for it would wake its module up if it were
		// allowed: it lies between two that are tried, once another was refused.
		if _, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != unix.EPERM {
			t.Fatalf("error %v, want EPERM", err)
		}
		for family := range unix.AF_MAX {
			if family == unix.AF_UNIX || family == unix.AF_VSOCK {
				continue
			}
			if _, err := unix.Socket(family, unix.SOCK_DGRAM, 0); err != unix.EPERM {
				t.Errorf("socket of family %d: error %v, want EPERM", family, err)
			}
		}
	})
}

func TestForbiddenAddresses(t *testing.T) {
	tcp := func(t *testing.T) int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	alone(t, func(t *testing.T) {
		// Of before; the listener is a stranger's then.
		binds, connects := tcp(t), tcp(t)
		abstract, err := net.Listen("unix", fmt.Sprintf("@%s-%d", t.Name(), os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		enter(t)
		for _, tt := range []struct {
			name string
			abi  int
			want error
			call func() error
		}{
			{"bind of TCP", 4, unix.EACCES, func() error { return unix.Bind(binds, &unix.SockaddrInet4{}) }},
			{"connect of TCP", 4, unix.EACCES, func() error {
				return unix.Connect(connects, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
			}},
			{"connect to an abstract address", 6, unix.EPERM, func() error {
				c, err := net.Dial("unix", abstract.Addr().String())
				if err == nil {
					c.Close()
				}
				return err
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				needLandlock(t, tt.abi)
				expectErrno(t, tt.call(), tt.want)
			})
		}
	})
}

func TestForbiddenFiles(t *testing.T) {
	needLandlock(t, 1)
	alone(t, func(t *testing.T) {
		enter(t)
		open := func(path string, flags int) func() error {
			return func() error {
				fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
				if err == nil {
					unix.Close(fd)
				}
				return err
			}
		}
		for _, tt := range []struct {
			name string
			call func() error
		}{
			{"read elsewhere", open(otherDir+"/"+fileName, unix.O_RDONLY)},
			{"list elsewhere", open(otherDir, unix.O_RDONLY)},
			{"list the root", open("/", unix.O_RDONLY)},
			{"read beside sockets", open(socketsDir+"/"+fileName, unix.O_RDONLY)},
			{"write beside sockets", open(socketsDir+"/"+fileName, unix.O_WRONLY)},
			{"make a file beside sockets", open(socketsDir+"/new", unix.O_RDWR|unix.O_CREAT)},
			{"write a file that is read", open(filesDir+"/"+fileName, unix.O_WRONLY)},
			{"make a file beside those that are read", open(filesDir+"/new", unix.O_RDWR|unix.O_CREAT)},
			{"remove a file that is read", func() error { return unix.Unlink(filesDir + "/" + fileName) }},
			{"remove elsewhere", func() error { return unix.Unlink(otherDir + "/" + fileName) }},
			{"read what is written", open(writtenDir+"/"+fileName, unix.O_RDONLY)},
			{"make a socket beside what is written", func() error {
				_, err := net.Listen("unix", writtenDir+"/socket")
				return err
			}},
			{"write the own memory", open("/proc/self/mem", unix.O_RDWR)},
			{"read of another process", open("/proc/1/stat", unix.O_RDONLY)},
			{"write what the system is told", open("/proc/stat", unix.O_WRONLY)},
			{"read a device", open("/dev/zero", unix.O_RDONLY)},
			{"socket elsewhere", func() error {
				_, err := net.Listen("unix", otherDir+"/socket")
				return err
			}},
		} {
			t.Run(tt.name, func(t *testing.T) { expectErrno(t, tt.call(), unix.EACCES) })
		}
	})
}
