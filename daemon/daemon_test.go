package daemon

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// startInProcess starts a daemon, in a fresh working directory, that the test
// sends signals by a channel.
func startInProcess(t *testing.T, args ...string) (d *daemon, signals chan os.Signal, result chan error) {
	t.Helper()
	t.Chdir(t.TempDir())
	line, err := config.ParseArgs(append(args, "--metrics-addr", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := line.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := newLogging(new(bytes.Buffer), 0, config.LogText)
	d = newDaemon(Program{}, log, line, cfg, findManager(log))
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	d.start() // not confined: that would hold for all tests
	signals, result = make(chan os.Signal), make(chan error, 1)
	go func() {
		result <- d.wait(signals, nil)
		d.manager.close()
		log.flush(testLimit)
	}()
	return d, signals, result
}

// one is a command line that describes one VM.
var one = []string{"--socket", "s", "--uds-path", "u"}

// expectFiles compares the names in the working directory, sorted.
func expectFiles(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

func expectEnd(t *testing.T, result chan error, want error) {
	t.Helper()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("ended with %v, want %v", err, want)
		}
	case <-time.After(testLimit):
		t.Fatal("did not end")
	}
}

func TestDaemonEndsBySignal(t *testing.T) {
	d, signals, result := startInProcess(t, one...)
	// Other names of its sockets, to ask for them when theirs are gone.
	for _, path := range []string{"s", "u", "u_seqpacket"} {
		if err := os.Link(path, "alias of "+path); err != nil {
			t.Fatal(err)
		}
		if !d.fleet.own.Owns("alias of " + path) {
			t.Errorf("%s is not known as the daemon's own", path)
		}
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t, "alias of s", "alias of u", "alias of u_seqpacket")
	for _, path := range []string{"s", "u", "u_seqpacket"} {
		if d.fleet.own.Owns("alias of " + path) {
			t.Errorf("%s is still known as the daemon's own", path)
		}
	}
}

func TestDaemonEndsAtOnceByASecondSignal(t *testing.T) {
	d, signals, result := startInProcess(t, one...)
	release := make(chan struct{})
	v := d.fleet.list()[0]
	v.loop.Do(func() { <-release })
	signals <- unix.SIGTERM
	signals <- unix.SIGTERM
	expectEnd(t, result, errHurried)
	close(release)
	<-v.done
	<-d.http.done
}

func TestDaemonEndsWithItsLoop(t *testing.T) {
	d, _, result := startInProcess(t, one...)
	d.fleet.list()[0].loop.Stop()
	expectEnd(t, result, nil)
	expectFiles(t)
}

// A VM whose loop fails ends alone; the last one takes the program with it.
func TestDaemonOutlivesAVMThatFails(t *testing.T) {
	d, _, result := startInProcess(t, "--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,socket=sb,uds-path=ub")
	vms := d.fleet.list()
	breakLoop(t, "sa")
	waitFor(t, func() bool { return !vms[0].up() })
	expectFiles(t, "sb", "ub", "ub_seqpacket")
	if code, body := get(t, d.http, "/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "a: ") {
		t.Errorf("/healthz: %d %q", code, body)
	}
	_, body := get(t, d.http, "/metrics")
	for _, want := range []string{`vm_up{vm="a"} 0`, `vm_failures_total{vm="a"} 1`, `vm_up{vm="b"} 1`, `vm_failures_total{vm="b"} 0`} {
		if !strings.Contains(body, "\nvhost_user_vsock_"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if stuck := examine(t.Context(), vms); len(stuck) > 0 {
		t.Error("the other VM does not answer")
	}
	breakLoop(t, "sb")
	expectEnd(t, result, unix.EINVAL)
	expectFiles(t)
}

// breakLoop has the loop of the VM whose frontend connects at socket fail: in
// place of its epoll descriptor it has one that cannot wait.
func breakLoop(t *testing.T, socket string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// A thread that waits in it goes on to do so; a frontend wakes it up.
	if err := unix.Dup3(int(null.Fd()), epollOf(t, socket), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// epollOf returns the epoll descriptor by which the socket at path is served.
func epollOf(t *testing.T, path string) int {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // it was the directory's own
		}
		for _, watched := range regexp.MustCompile(`(?m)^tfd: +(\d+)`).FindAllSubmatch(text, -1) {
			fd, _ := strconv.Atoi(string(watched[1]))
			name, err := unix.Getsockname(fd)
			// A socket keeps the name under which it was bound.
			if unixName, ok := name.(*unix.SockaddrUnix); err == nil && ok && strings.HasSuffix(unixName.Name, "."+path) {
				epoll, _ := strconv.Atoi(filepath.Base(info))
				return epoll
			}
		}
	}
	t.Fatalf("nobody serves %s", path)
	return -1
}
