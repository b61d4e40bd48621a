package daemon

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// blockade is a log in which who says that it is stopping gets stuck.
type blockade struct{ entered, lifted chan struct{} }

func (b blockade) Levels() []logrus.Level { return []logrus.Level{logrus.InfoLevel} }

func (b blockade) Fire(line *logrus.Entry) error {
	if line.Message == "stopping" {
		close(b.entered)
		<-b.lifted
	}
	return nil
}

// The watchdog is for the main goroutine: while that is stuck no ping comes, whatever
// the loops do.
func TestManagerIsNotPingedByAStuckProgram(t *testing.T) {
	const period = 2 * time.Millisecond
	address := "@vsock-" + t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	// next returns the next message within a time.
	next := func(limit time.Duration) (string, bool) {
		var text [4096]byte
		manager.SetReadDeadline(time.Now().Add(limit))
		n, err := manager.Read(text[:])
		return string(text[:n]), err == nil
	}
	expect := func(want string) {
		t.Helper()
		for {
			switch text, ok := next(testLimit); {
			case !ok:
				t.Fatalf("the manager is not told %q", want)
			case text == want:
				return
			case text != "WATCHDOG=1":
				t.Fatalf("the manager is told %q, want %q", text, want)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", address)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int(period.Microseconds())))
	d, signals, result := startInProcess(t, one...)
	expect("READY=1\nSTATUS=serving 1 VM")
	expect("WATCHDOG=1")

	stuck := blockade{make(chan struct{}), make(chan struct{})}
	d.log.SetLevel(logrus.InfoLevel)
	d.log.AddHook(stuck)
	signals <- unix.SIGTERM
	<-stuck.entered
	for told := true; told; { // what it said before
		_, told = next(time.Millisecond)
	}
	if vms := examine(t.Context(), d.fleet.list()); len(vms) > 0 {
		t.Error("the VM is stuck, too")
	}
	if text, ok := next(50 * period); ok {
		t.Errorf("the manager is told %q", text)
	}
	close(stuck.lifted)
	expect("STOPPING=1\nSTATUS=stopping")
	expectEnd(t, result, nil)
}
