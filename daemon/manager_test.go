package daemon

import (
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
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

// testManager is a service manager that wants to be pinged every so often.
type testManager struct {
	t *testing.T
	*net.UnixConn
}

const pingPeriod = time.Millisecond

// startManager has a manager start the daemons of this test.
func startManager(t *testing.T) testManager {
	t.Helper()
	address := "@vsock-" + t.TempDir()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int(2*pingPeriod.Microseconds())))
	return testManager{t, conn}
}

// next returns the next message, or that none came within a time.
func (m testManager) next(limit time.Duration) (text string, ok bool) {
	var message [4096]byte
	m.SetReadDeadline(time.Now().Add(limit))
	n, err := m.Read(message[:])
	return string(message[:n]), err == nil
}

const pinged = "WATCHDOG=1"

// expect waits for a message that begins like this; only pings may come before.
func (m testManager) expect(want string) {
	m.t.Helper()
	for {
		switch text, ok := m.next(testLimit); {
		case !ok:
			m.t.Fatalf("the manager is not told %q", want)
		case strings.HasPrefix(text, want):
			return
		case text != pinged:
			m.t.Fatalf("the manager is told %q, want %q", text, want)
		}
	}
}

// The watchdog is for the main goroutine: while that is stuck no ping comes, whatever
// the loops do.
func TestManagerIsNotPingedByAStuckProgram(t *testing.T) {
	m := startManager(t)
	d, signals, result := startInProcess(t, one...)
	m.expect("READY=1\nSTATUS=serving 1 VM")
	m.expect(pinged)

	stuck := blockade{make(chan struct{}), make(chan struct{})}
	d.log.SetLevel(logrus.InfoLevel)
	d.log.AddHook(stuck)
	signals <- unix.SIGTERM
	<-stuck.entered
	for told := true; told; { // what it said before
		_, told = m.next(time.Millisecond)
	}
	if vms := examine(t.Context(), d.fleet.list()); len(vms) > 0 {
		t.Error("the VM is stuck, too")
	}
	if text, ok := m.next(100 * pingPeriod); ok {
		t.Errorf("the manager is told %q", text)
	}
	close(stuck.lifted)
	m.expect("STOPPING=1\nSTATUS=stopping")
	expectEnd(t, result, nil)
}

// A program that ends during a reload is not ready again, and pings to its end.
func TestManagerHearsOfTheEndDuringAReload(t *testing.T) {
	m := startManager(t)
	reloads := make(chan os.Signal)
	d, signals, result := startWithReloads(t, reloads, one...)
	m.expect("READY=1\nSTATUS=serving 1 VM")
	for range 3 { // the status is the same, and not told again
		d.examined <- struct{}{}
	}
	d.fleet.changing.Lock()
	reloads <- unix.SIGHUP
	m.expect("RELOADING=1\nMONOTONIC_USEC=")
	signals <- unix.SIGTERM
	m.expect("STOPPING=1\nSTATUS=stopping")
	m.expect(pinged)
	d.fleet.changing.Unlock()
	expectEnd(t, result, nil)
	for {
		text, ok := m.next(time.Millisecond)
		if !ok {
			break
		}
		if text != pinged {
			t.Errorf("then the manager is told %q", text)
		}
	}
}

// A program that ends does not read its configuration again.
func TestManagerHearsOfNoReloadAfterTheEnd(t *testing.T) {
	m := startManager(t)
	reloads := make(chan os.Signal)
	d, signals, result := startWithReloads(t, reloads, one...)
	m.expect("READY=1\nSTATUS=serving 1 VM")
	release := make(chan struct{})
	d.fleet.list()[0].loop.Do(func() { <-release })
	signals <- unix.SIGTERM
	m.expect("STOPPING=1\nSTATUS=stopping")
	select {
	case reloads <- unix.SIGHUP:
		t.Error("it begins a reload")
	case <-time.After(20 * pingPeriod):
	}
	close(release)
	expectEnd(t, result, nil)
}

// A manager that does not listen holds nobody up.
func TestManagerThatIsStuck(t *testing.T) {
	m := startManager(t)
	full := make([]byte, 4096)
	other, err := net.DialUnix("unixgram", nil, m.LocalAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for err == nil { // until its queue is full
		other.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, err = other.Write(full)
	}
	d, signals, result := startInProcess(t, one...)
	if code, _ := get(t, d.http, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
}
