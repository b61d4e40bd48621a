package sandbox_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// paths are the place of a process that runs alone.
var paths = sandbox.Paths{Sockets: []string{socketsDir}, Files: []string{filesDir}, Written: []string{writtenDir}}

// enter confines the process to its place.
func enter(t *testing.T) sandbox.State {
	t.Helper()
	state, err := sandbox.Enter(sandbox.On, paths)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func expectErrno(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error %v, want %v", got, want)
	}
}

func TestEnterTellsWhatIsInForce(t *testing.T) {
	alone(t, func(t *testing.T) {
		left := "="
		if os.Getuid() == 0 {
			left = "cap_chown,cap_dac_override,cap_fowner=ep"
		}
		got := enter(t)
		if whole := landlockABI >= wholeABI; whole != (got.Missing == nil) {
			t.Errorf("missing: %v", got.Missing)
		}
		got.Missing = nil
		if want := (sandbox.State{Capabilities: left, Landlock: landlockABI > 0, Seccomp: true}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestRequireIsAnErrorOnlyWhereSomethingIsMissing(t *testing.T) {
	alone(t, func(t *testing.T) {
		if _, err := sandbox.Enter(sandbox.Require, paths); (err == nil) != (landlockABI >= wholeABI) {
			t.Errorf("error %v", err)
		}
	})
}

func TestOffLeavesFilesAndCallsAlone(t *testing.T) {
	alone(t, func(t *testing.T) {
		got, err := sandbox.Enter(sandbox.Off, paths)
		if err != nil || got.Landlock || got.Seccomp || got.Missing != nil {
			t.Errorf("got %+v, error %v", got, err)
		}
		if _, err := os.ReadFile(otherDir + "/" + fileName); err != nil {
			t.Error(err)
		}
		expectThreads(t, map[string]string{
			"NoNewPrivs": "1",
			"Seccomp":    "0",
			"CapEff":     keptMask(),
		})
	})
}

// forbid makes a system call fail on the calling thread, and on those that it
// starts, as on a kernel that does not have it.
func forbid(t *testing.T, call string) {
	t.Helper()
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{call}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKernelWithoutLandlock(t *testing.T) {
	alone(t, func(t *testing.T) {
		forbid(t, "landlock_create_ruleset")
		_, err := sandbox.Enter(sandbox.Require, sandbox.Paths{})
		if err == nil || !strings.Contains(err.Error(), "landlock: ") || strings.Contains(err.Error(), "seccomp: ") {
			t.Errorf("error %v, want one about Landlock alone", err)
		}
	})
}

func TestKernelWithoutSeccomp(t *testing.T) {
	needLandlock(t, 1)
	alone(t, func(t *testing.T) {
		forbid(t, "seccomp")
		got := enter(t)
		if !got.Landlock || got.Seccomp || got.Missing == nil || !strings.Contains(got.Missing.Error(), "seccomp: ") {
			t.Errorf("got %+v, want Landlock alone", got)
		}
	})
}

func TestKernelWithNothing(t *testing.T) {
	alone(t, func(t *testing.T) {
		forbid(t, "landlock_create_ruleset")
		forbid(t, "seccomp")
		got := enter(t)
		if got.Landlock || got.Seccomp || got.Missing == nil || strings.Contains(got.Missing.Error(), "\n") {
			t.Errorf("got %+v, want nothing in force and why in one line", got)
		}
	})
}

// A thread that has a filter of its own cannot be confined with the others; that
// must not pass for success.
func TestThreadThatCannotBeConfined(t *testing.T) {
	alone(t, func(t *testing.T) {
		ready, end := make(chan error), make(chan struct{})
		defer close(end)
		go func() {
			runtime.LockOSThread()
			ready <- seccomp.LoadFilter(seccomp.Filter{
				NoNewPrivs: true,
				Policy: seccomp.Policy{
					DefaultAction: seccomp.ActionAllow,
					Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionErrno, Names: []string{"reboot"}}},
				},
			})
			<-end
		}()
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		got := enter(t)
		if got.Seccomp || !errors.Is(got.Missing, unix.ESRCH) {
			t.Errorf("got %+v, want no filter and ESRCH", got)
		}
	})
}

func TestMissingDirectoryIsAnError(t *testing.T) {
	needLandlock(t, 1)
	alone(t, func(t *testing.T) {
		_, err := sandbox.Enter(sandbox.On, sandbox.Paths{Sockets: []string{"gone"}})
		expectErrno(t, err, unix.ENOENT)
	})
}
