package daemon

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

const keysC = `{"name":"c","guest-cid":5,"socket":"sc","uds-path":"uc"}`

// twoBesideControl is a command line that describes two VMs and a control socket.
var twoBesideControl = []string{"--control", "control", "--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,socket=sb,uds-path=ub"}

func newClient(t *testing.T) *control.Client {
	t.Helper()
	c := control.NewClient("control")
	t.Cleanup(c.Close)
	return c
}

func expectStatus(t *testing.T, err error, want int, words string) {
	t.Helper()
	refused, ok := errors.AsType[*control.Error](err)
	if !ok || refused.Status != want || !strings.Contains(refused.Text, words) {
		t.Errorf("error %v, want status %d and %q", err, want, words)
	}
}

// Who asks about a loop that is stuck is told so, and those who ask do not pile up
// in it. What needs no loop is answered, and what needs that of another VM.
func TestControlOfAStuckLoop(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	c := newClient(t)
	program, err := net.Dial("unix", "ub") // a connection of b, which has yet to say CONNECT
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	waitFor(t, func() bool { return d.fleet.named("b").stats.muxer.Clients.Load() == 1 })
	a := d.fleet.named("a")
	release := make(chan struct{})
	a.loop.Do(func() { <-release })
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := c.Connections(t.Context(), "a")
		expectStatus(t, err, http.StatusServiceUnavailable, `VM "a": its event loop does not answer`)
	})
	asking.Go(func() {
		list, err := c.Connections(t.Context(), "")
		if err != nil || !slices.Equal(list.Unanswered, []string{"a"}) || len(list.Connections) != 1 || list.Connections[0].VM != "b" {
			t.Errorf("of all VMs: %+v, error %v", list, err)
		}
	})
	asking.Wait()
	if first := a.askConnections(); first != a.askConnections() {
		t.Error("questions pile up")
	}
	if list, err := c.Connections(t.Context(), "b"); err != nil || len(list.Unanswered) != 0 || len(list.Connections) != 1 {
		t.Errorf("of the other VM: %+v, error %v", list, err)
	}
	if vms, err := c.VMs(t.Context()); err != nil || len(vms) != 2 {
		t.Errorf("VMs %+v, error %v", vms, err)
	}
	close(release)
	if _, err := c.Connections(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if list, err := c.Connections(t.Context(), ""); err != nil || len(list.Unanswered) != 0 || len(list.Connections) != 1 {
		t.Errorf("of all VMs that answer again: %+v, error %v", list, err)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// However many loops are stuck, who asks all waits for one time-out, in which others may
// answer late.
func TestControlAsksAllLoopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := func(name string) *vm {
			return &vm{name: name, connections: question[[]muxer.Connection]{pending: &answer[[]muxer.Connection]{given: make(chan struct{})}}}
		}
		a, b, c := asked("a"), asked("b"), asked("c")
		time.AfterFunc(healthLimit*3/4, func() {
			b.connections.pending.value = []muxer.Connection{{GuestPort: 22}}
			close(b.connections.pending.given)
		})
		start := time.Now()
		list := listConnections([]*vm{a, b, c})
		if took := time.Since(start); took != healthLimit {
			t.Errorf("it took %v", took)
		}
		if !slices.Equal(list.Unanswered, []string{"a", "c"}) || len(list.Connections) != 1 || list.Connections[0].VM != "b" {
			t.Errorf("answer %+v", list)
		}
	})
}

// A VM that has failed is shown with the reason, and goes when it is drained or
// removed.
func TestControlOfAFailedVM(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	c := newClient(t)
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Fatal(err)
	}
	d.fleet.named("c").draining.Store(true) // as with connections that last
	drained := make(chan error, 1)
	go func() {
		_, err := c.Drain(t.Context(), "c", 0)
		drained <- err
	}()
	breakLoop(t, "sa")
	waitFor(t, func() bool { return !d.fleet.named("a").up() })
	breakLoop(t, "sc")
	if err := <-drained; err != nil {
		t.Errorf("drain of one that fails: %v", err)
	}
	if a, err := c.VM(t.Context(), "a"); err != nil || a.State != control.Failed || !strings.Contains(a.Error, unix.EINVAL.Error()) || a.GuestCID != 3 {
		t.Errorf("a: %+v, error %v", a, err)
	}
	if list, err := c.Connections(t.Context(), "a"); err != nil || len(list.Connections) != 0 {
		t.Errorf("connections %+v, error %v", list, err)
	}
	_, err := c.Add(t.Context(), control.Keys(`{"name":"a","socket":"sd","uds-path":"ud"}`))
	expectStatus(t, err, http.StatusConflict, `name "a"`)
	if result, err := c.Drain(t.Context(), "a", 0); err != nil || result.ConnectionsCut != 0 {
		t.Errorf("drain %+v, error %v", result, err)
	}
	if vms := d.fleet.describe(); len(vms) != 1 || vms[0].Name != "b" {
		t.Errorf("VMs %+v", vms)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// A VM that was added and has failed is tried again by a reload, like any other.
func TestControlOfAFailedVMAndAReload(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	c := newClient(t)
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Fatal(err)
	}
	v := d.fleet.named("c")
	breakLoop(t, "sc")
	waitFor(t, func() bool { return !v.up() })
	d.reload()
	if vm, err := c.VM(t.Context(), "c"); err != nil || vm.State != control.Waiting || vm.Origin != control.FromControl {
		t.Errorf("c: %+v, error %v", vm, err)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// The program goes on when the last VM is removed, but not when it has ended by
// itself.
func TestControlOfTheLastVM(t *testing.T) {
	d, _, result := startInProcess(t, append([]string{"--control", "control"}, one...)...)
	c := newClient(t)
	if err := c.Remove(t.Context(), "cid3"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-result:
		t.Fatalf("ended with %v", err)
	default:
	}
	d.fleet.named("c").loop.Stop()
	expectEnd(t, result, nil)
	expectFiles(t)
}

// What is refused costs those that are there nothing of their share.
func TestControlSharesDescriptors(t *testing.T) {
	d, signals, result := startInProcess(t, append([]string{"--control", "control"}, one...)...)
	c := newClient(t)
	d.fleet.files = 500
	limit := func() int64 { return d.fleet.named("cid3").stats.maxConnections.Load() }
	if _, err := c.Add(t.Context(), control.Keys(`{"name":"c","socket":"no/s","uds-path":"uc"}`)); err == nil {
		t.Error("added")
	}
	_, err := c.Add(t.Context(), control.Keys(`{"name":"c","socket":"s","uds-path":"uc"}`))
	expectStatus(t, err, http.StatusConflict, "the same")
	if err := c.Remove(t.Context(), "none"); err == nil {
		t.Error("removed")
	}
	d.fleet.shareLimits()
	if n := limit(); n != 324 { // 500 - 64 - 112
		t.Errorf("limit %d", n)
	}
	// It is found out late, in the middle of making sockets.
	if err := unix.Mkdir("uc_seqpacket", 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = c.Add(t.Context(), control.Keys(keysC))
	expectStatus(t, err, http.StatusConflict, "not a socket")
	expectFiles(t, "control", "s", "u", "u_seqpacket", "uc_seqpacket")
	if n := limit(); n != 324 {
		t.Errorf("limit %d after one was refused", n)
	}
	if err := unix.Rmdir("uc_seqpacket"); err != nil {
		t.Fatal(err)
	}
	if vm, err := c.Add(t.Context(), control.Keys(keysC)); err != nil || vm.MaxConnections != 106 { // (500 - 64 - 2*112) / 2
		t.Errorf("added %+v, error %v", vm, err)
	}
	if n := limit(); n != 106 {
		t.Errorf("limit %d beside another", n)
	}
	if err := c.Remove(t.Context(), "c"); err != nil || limit() != 324 {
		t.Errorf("limit %d, error %v", limit(), err)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
}

// Requests that come while the program ends are refused.
func TestControlWhileTheProgramEnds(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	c := newClient(t)
	release := make(chan struct{})
	b := d.fleet.named("b")
	b.loop.Do(func() { <-release }) // holds it up
	signals <- unix.SIGTERM
	waitFor(t, func() bool {
		d.fleet.mu.Lock()
		defer d.fleet.mu.Unlock()
		return d.fleet.closing
	})
	_, err := c.Add(t.Context(), control.Keys(keysC))
	expectStatus(t, err, http.StatusServiceUnavailable, "the program ends")
	expectStatus(t, c.Remove(t.Context(), "a"), http.StatusServiceUnavailable, "the program ends")
	_, err = c.Drain(t.Context(), "b", time.Millisecond)
	expectStatus(t, err, http.StatusServiceUnavailable, "the program ends")
	close(release)
	expectEnd(t, result, nil)
	expectFiles(t)
}

// A VM that is added passes the checks of one in the configuration.
func TestControlChecksVMsBesideOthers(t *testing.T) {
	_, signals, result := startInProcess(t, append([]string{"--control", "control", "--trace-packets", "trace"}, one...)...)
	c := newClient(t)
	_, err := c.Add(t.Context(), control.Keys(`{"name":"c","socket":"sc","uds-path":"uc","trace-packets":"trace"}`))
	expectStatus(t, err, http.StatusConflict, `VM "cid3" records in`)
	_, err = c.Add(t.Context(), control.Keys(`{"socket":"sc","uds-path":"uc"}`))
	expectStatus(t, err, http.StatusConflict, `name "cid3"`)
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Error(err)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t, "trace")
}
