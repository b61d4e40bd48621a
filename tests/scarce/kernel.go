// Package scarce starts a program under a kernel that can run out of memory: system
// calls of the program's fail as they do then, for as long as a test wants. The kernel
// asks before each of them (seccomp_unotify(2)); nothing else of the program changes.
package scarce

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The system calls that a shortage may be made of, by what they are for.
var (
	Accept  = []uintptr{unix.SYS_ACCEPT4}
	Socket  = []uintptr{unix.SYS_SOCKET}
	Connect = []uintptr{unix.SYS_CONNECT}
	Watch   = []uintptr{unix.SYS_EPOLL_CTL} // that adds a descriptor
	Send    = []uintptr{unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_WRITE, unix.SYS_WRITEV}
	Receive = []uintptr{unix.SYS_READV, unix.SYS_RECVMSG}
	Map     = []uintptr{unix.SYS_MMAP} // of a file
)

var watched = slices.Concat(Accept, Socket, Connect, Watch, Send, Receive, Map)

// Shortage says which system calls fail, and how.
type Shortage struct {
	Calls []uintptr
	Errno unix.Errno
	Of    func(fd int) bool // the descriptors on which they do; nil: all
	OneIn int               // one such call in so many fails, at random; 0: all
	Hold  bool              // they do not fail but take as long as the shortage
}

// Kernel is what a program runs under. It has memory, but for its Shortage.
type Kernel struct {
	path string // of the socket on which launch reports
	done chan struct{}

	mu       sync.Mutex
	shortage Shortage   // guarded by mu
	asked    int        // guarded by mu; calls that the shortage is about
	held     []*call    // guarded by mu; those that wait for its end
	answers  int        // guarded by mu; where they are answered
	dice     *rand.Rand // guarded by mu
}

// New returns a Kernel for one program, which must have ended when the test ends.
func New(t testing.TB) *Kernel {
	t.Helper()
	k := &Kernel{path: filepath.Join(t.TempDir(), "scarce"), done: make(chan struct{}), dice: rand.New(rand.NewPCG(1, 2))}
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrUnix{Name: k.path})
	}
	if err == nil {
		err = unix.Listen(l, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(k.done)
		if err := k.run(l); err != nil {
			t.Error("scarce:", err)
		}
	}()
	t.Cleanup(func() {
		unix.Shutdown(l, unix.SHUT_RD) // where nothing was launched
		<-k.done
		unix.Close(l)
	})
	return k
}

// Script returns a script for vm.StartDaemonBy that executes "$@" under k, by this very
// program, whose main function must call Launch first.
func (k *Kernel) Script() string {
	return fmt.Sprintf(`%s='%s' exec '/proc/%d/exe' "$@"`, variable, k.path, os.Getpid())
}

// Begin begins a shortage, in place of a former one.
func (k *Kernel) Begin(s Shortage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shortage, k.asked = s, 0
}

// End ends the shortage and returns how many calls it was about.
func (k *Kernel) End() (asked int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.held {
		_ = c.reply(k.answers, 0) // it fails if the program has ended
	}
	k.shortage, k.held = Shortage{}, nil
	return k.asked
}

// run answers the kernel's questions until the program ends.
func (k *Kernel) run(l int) error {
	s, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	if err == unix.EINVAL {
		return nil // shut down
	}
	if err != nil {
		return os.NewSyscallError("accept4", err)
	}
	defer unix.Close(s)
	program, questions, err := introduced(s)
	if err != nil {
		return err
	}
	defer unix.Close(program)
	defer unix.Close(questions)
	for {
		ready := []unix.PollFd{{Fd: int32(questions), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if ready[0].Revents&unix.POLLIN == 0 && ready[0].Revents != 0 {
			return nil // the program has ended
		}
		if err := k.answerOne(program, questions); err != nil {
			return err
		}
	}
}

// introduced receives the descriptor of the questions, and returns one of the process
// that sent it as well.
func introduced(s int) (program, questions int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(s, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, -1, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, -1, fmt.Errorf("the program was not launched: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, -1, err
	}
	peer, err := unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil {
		program, err = unix.PidfdOpen(int(peer.Pid), 0)
	}
	return program, fds[0], err
}

// verdict returns how a call fails; 0: it does not. One that is held is not to be
// answered now.
func (k *Kernel) verdict(program, questions int, c *call) (errno unix.Errno, held bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.shortage
	if !slices.Contains(s.Calls, uintptr(c.nr)) || !s.concerns(program, c) {
		return 0, false
	}
	if k.asked++; s.OneIn > 1 && k.dice.IntN(s.OneIn) != 0 {
		return 0, false
	}
	if s.Hold {
		k.held, k.answers = append(k.held, c), questions
	}
	return s.Errno, s.Hold
}

func (s *Shortage) concerns(program int, c *call) bool {
	at := 0 // which argument is the descriptor
	switch uintptr(c.nr) {
	case unix.SYS_SOCKET:
		return true
	case unix.SYS_EPOLL_CTL:
		if c.args[1] != unix.EPOLL_CTL_ADD {
			return false
		}
		at = 2
	case unix.SYS_MMAP:
		at = 4
	}
	fd, err := unix.PidfdGetfd(program, int(int32(c.args[at])), 0)
	if err != nil {
		return false // anonymous memory
	}
	defer unix.Close(fd)
	return s.Of == nil || s.Of(fd)
}
