package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// A VM to be added, with its sockets in the working directory.
const keysC = `{"name": "c", "guest-cid": 5, "socket": "sc", "uds-path": "uc"}`

// controlled is the program, in its sandbox, with a client of its control socket c.
type controlled struct {
	*filed
	client *control.Client
}

func startControlled(t *testing.T, args ...string) *controlled {
	t.Helper()
	p := startProcess(t, nil, append([]string{"--control", "c"}, args...)...)
	p.expectReady(t)
	return withClient(t, &filed{process: p})
}

func startControlledFleet(t *testing.T) *controlled {
	t.Helper()
	return withClient(t, &filed{process: startFleet(t, "--control", "c")})
}

// controlKey is the line of a configuration file.
const controlKey = "control: c\n"

func startControlledFile(t *testing.T, text string) *controlled {
	t.Helper()
	return withClient(t, startFiled(t, controlKey+text))
}

func withClient(t *testing.T, p *filed) *controlled {
	t.Helper()
	c := control.NewClient("c")
	t.Cleanup(c.Close)
	return &controlled{p, c}
}

// show returns a VM.
func (p *controlled) show(t *testing.T, name string) control.VM {
	t.Helper()
	vm, err := p.client.VM(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// expectNames compares the names of the VMs.
func (p *controlled) expectNames(t *testing.T, want ...string) {
	t.Helper()
	vms, err := p.client.VMs(t.Context())
	var got []string
	for _, vm := range vms {
		got = append(got, vm.Name)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("VMs %q, error %v; want %q", got, err, want)
	}
}

func (p *controlled) mustAdd(t *testing.T, keys string) control.VM {
	t.Helper()
	vm, err := p.client.Add(t.Context(), control.Keys(keys))
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// expectConnection waits for a connection of a VM, the only one, that looks so.
func (p *controlled) expectConnection(t *testing.T, vm string, looks func(c *control.Connection) bool) (found control.Connection) {
	t.Helper()
	waitFor(t, func() bool {
		list, err := p.client.Connections(t.Context(), vm)
		if err != nil || len(list.Connections) != 1 {
			t.Fatalf("connections %+v, error %v", list, err)
		}
		found = list.Connections[0]
		return looks(&found)
	})
	return found
}

// expectRefused compares the status of an error and looks for words in it.
func expectRefused(t *testing.T, err error, status int, words ...string) {
	t.Helper()
	refused, ok := errors.AsType[*control.Error](err)
	if !ok || refused.Status != status {
		t.Errorf("error %v, want status %d", err, status)
		return
	}
	for _, w := range words {
		if !strings.Contains(refused.Text, w) {
			t.Errorf("error %q does not tell of %q", refused.Text, w)
		}
	}
}

func TestControlShowsVMs(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	if info, err := os.Stat("c"); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("control socket: %v, error %v", info.Mode(), err)
	}
	p.expectNames(t, "a", "b")
	a := p.show(t, "a")
	if a.State != control.Waiting || a.Origin != control.FromConfig || a.GuestCID != 3 || a.Socket != "sa" || a.UDSPath != "ua" ||
		a.MaxConnections != 4096 || a.MaxBuffered != 256<<20 || a.UptimeSeconds <= 0 || a.Connections != 0 {
		t.Errorf("a: %+v", a)
	}
	frontend := dial(t, "sb")
	expectAnswer(t, frontend)
	if b := p.show(t, "b"); b.State != control.Connected || b.GuestCID != 4 {
		t.Errorf("b: %+v", b)
	}

	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	g.mustCarry(t, program, []byte("seven b"))
	a = p.show(t, "a")
	if a.State != control.Running || a.Connections != 1 || a.TxBytes != 7 || a.TxPackets != 2 || a.RxPackets < 1 || a.RxBytes != 0 {
		t.Errorf("a: %+v", a)
	}
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "ua_9")
}

func TestControlShowsConnections(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	g.mustCarry(t, program, []byte("seven b"))
	if _, err := program.Write([]byte("to the guest")); err != nil {
		t.Fatal(err)
	}
	g.expect(t, csm.OpRW)
	c := p.expectConnection(t, "a", func(c *control.Connection) bool { return c.RxBytes == 12 })
	if c.AgeSeconds <= 0 || c.AgeSeconds > testLimit.Seconds() {
		t.Errorf("age %v", c.AgeSeconds)
	}
	c.AgeSeconds, c.StalledSeconds = 0, nil
	if want := (control.Connection{
		VM: "a", Type: "stream", GuestPort: guestPort, HostPort: 9, InitiatedBy: "guest", State: "established",
		TxBytes: 7, RxBytes: 12, CreditBytes: 256<<10 - 12,
	}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}

	b := startGuestOf(t, "b", 4, 9)
	b.connect(t, listenAt(t, "ub_9"))
	sent := b.flood(t)
	c = p.expectConnection(t, "b", func(c *control.Connection) bool { return c.WaitsFor == control.WaitHostSocket })
	if c.BufferedBytes < 128<<10 || c.TxBytes != uint64(len(sent)) || c.StalledSeconds == nil {
		t.Fatalf("flooded: %+v", c)
	}
	before := c.StalledSeconds.HostSocket
	p.expectConnection(t, "b", func(c *control.Connection) bool { return c.StalledSeconds.HostSocket > before })
	if b := p.show(t, "b"); b.StalledSeconds.HostSocket <= 0 || b.BufferedBytes == 0 {
		t.Errorf("b: %+v", b)
	}
	b.send(csm.OpRST, nil)
	p.expectConnection(t, "b", func(c *control.Connection) bool { return c.State == "lingering" })

	// A CONNECT to a driver that is not up.
	p.mustAdd(t, `{"name": "c", "guest-cid": 5, "socket": "sc", "uds-path": "uc", "wait-for-guest": "1h"}`)
	client := dial(t, "uc")
	if _, err := fmt.Fprint(client, "CONNECT 60\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return p.show(t, "c").Connections == 1 })
	c = p.expectConnection(t, "c", func(c *control.Connection) bool { return c.WaitsFor == control.WaitDriver })
	if c.GuestPort != 60 || c.HostPort != 0 || c.InitiatedBy != "host" || c.State != "connecting" {
		t.Errorf("waiting: %+v", c)
	}
	list, err := p.client.Connections(t.Context(), "")
	all := list.Connections
	if err != nil || len(list.Unanswered) > 0 || len(all) != 3 || all[0].VM != "a" || all[1].VM != "b" || all[2].VM != "c" {
		t.Errorf("all: %+v, error %v", list, err)
	}
	_, err = p.client.Connections(t.Context(), "d")
	expectRefused(t, err, http.StatusNotFound, `"d"`)
	p.stop(t, unix.SIGTERM)
}

// The program may have no VM: at the start, and after the last one.
func TestControlBeginsWithNothing(t *testing.T) {
	inTempDir(t)
	p := startControlled(t)
	p.expectNames(t)
	vm := p.mustAdd(t, keysC)
	if vm.Name != "c" || vm.State != control.Waiting || vm.Origin != control.FromControl || vm.GuestCID != 5 {
		t.Errorf("added: %+v", vm)
	}
	g := startGuestOf(t, "c", 5, 9)
	program := g.connect(t, listenAt(t, "uc_9"))
	g.mustCarry(t, program, []byte("as any other"))

	if err := p.client.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	g.expect(t, csm.OpRST)
	expectEOF(t, program)
	expectFiles(t, "c", "uc_9")
	p.expectNames(t)
	expectRefused(t, p.client.Remove(t.Context(), "c"), http.StatusNotFound, `"c"`)

	p.mustAdd(t, keysC) // its name and sockets are free again
	for _, want := range []string{"VM is added by the control interface", "VM is removed by the control interface", "connections_cut=1"} {
		if log := p.stderr.String(); !strings.Contains(log, want) {
			t.Errorf("log without %q: %s", want, log)
		}
	}
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "uc_9")
}

func TestControlRefusesVMs(t *testing.T) {
	inTempDir(t)
	elsewhere := t.TempDir()
	p := startControlledFleet(t)
	defer listenAt(t, "taken").Close()
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for keys, want := range map[string]struct {
		status int
		words  string
	}{
		`{"name":"a","socket":"sc","uds-path":"uc"}`:              {http.StatusConflict, `name "a"`},
		`{"name":"c","socket":"sa","uds-path":"uc"}`:              {http.StatusConflict, "the same"},
		`{"name":"c","socket":"sc","uds-path":"ua_22"}`:           {http.StatusConflict, "where the guest of ua looks"},
		`{"name":"c","socket":"c","uds-path":"uc"}`:               {http.StatusConflict, "the same"},
		`{"name":"c","socket":"taken","uds-path":"uc"}`:           {http.StatusConflict, "listening on it"},
		`{"name":"c","socket":"sc","uds-path":"file"}`:            {http.StatusConflict, "not a socket"},
		`{"name":"c","socket":"sc"}`:                              {http.StatusBadRequest, "uds-path: missing; give the path"},
		`{"name":"c","socket":"sc","uds-path":"uc","speed":3}`:    {http.StatusBadRequest, "speed: no such key"},
		`{"name":"c","socket":"sc","uds-path":"uc","packed":"x"}`: {http.StatusBadRequest, `packed "x": not a switch`},
		`["c"]`: {http.StatusBadRequest, "JSON object"},
	} {
		_, err := p.client.Add(t.Context(), control.Keys(keys))
		expectRefused(t, err, want.status, want.words)
	}
	if landlockABI() > 0 {
		keys := fmt.Sprintf(`{"name":"c","socket":"sc","uds-path":"%s/uc"}`, elsewhere)
		_, err := p.client.Add(t.Context(), control.Keys(keys))
		expectRefused(t, err, http.StatusBadRequest, `uds-path "`, "no access to "+elsewhere, "runtime-dir")
	}
	p.expectNames(t, "a", "b")
	expectGone(t, "sc", "uc", "ua_22", "uc_seqpacket")
	expectAnswer(t, dial(t, "sa"))
	p.mustAdd(t, keysC)
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "file", "taken")
}

// Existing connections run on, and no other begins, from either side.
func TestControlDrains(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	g := startGuestOf(t, "a", 3, 9)
	l := listenAt(t, "ua_9")
	program := g.connect(t, l)
	drained := p.drain(t, "a", 0)

	client := dial(t, "ua")
	if _, err := fmt.Fprint(client, "CONNECT 60\n"); err != nil {
		t.Fatal(err)
	}
	expectEOF(t, client)
	g.sendFrom(guestPort+1, csm.OpRequest, nil)
	g.expect(t, csm.OpRST)
	g.mustCarry(t, program, []byte("as long as it lasts"))
	expectNotDrained(t, drained)
	if b := p.show(t, "b"); b.State != control.Waiting {
		t.Errorf("b: %+v", b)
	}
	program.Close()
	g.expect(t, csm.OpShutdown)
	g.send(csm.OpRST, nil)
	if d := <-drained; d.err != nil || d.ConnectionsCut != 0 {
		t.Errorf("%+v", d)
	}
	p.expectNames(t, "b")
	expectGone(t, "sa", "ua")
	p.stop(t, unix.SIGTERM)
}

// drainEnd is what came of a drain.
type drainEnd struct {
	control.DrainResult
	err error
}

// drain begins one and returns when it has begun.
func (p *controlled) drain(t *testing.T, vm string, limit time.Duration) <-chan drainEnd {
	t.Helper()
	end := make(chan drainEnd, 1)
	go func() {
		result, err := p.client.Drain(t.Context(), vm, limit)
		end <- drainEnd{result, err}
	}()
	waitFor(t, func() bool {
		found, err := p.client.VM(t.Context(), vm)
		return err != nil || found.State == control.Draining
	})
	return end
}

func expectNotDrained(t *testing.T, drained <-chan drainEnd) {
	t.Helper()
	select {
	case end := <-drained:
		t.Fatalf("the drain has ended: %+v", end)
	default:
	}
}

// What is left at the timeout is cut, whoever waits for it.
func TestControlDrainsOnlySoLong(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	patient := p.drain(t, "a", 0)
	begin := time.Now()
	if d, err := p.client.Drain(t.Context(), "a", 200*time.Millisecond); err != nil || d.ConnectionsCut != 1 {
		t.Errorf("%+v, error %v", d, err)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("it gave up after %v", took)
	}
	if d := <-patient; d.err != nil || d.ConnectionsCut != 1 {
		t.Errorf("who waited longer: %+v", d)
	}
	g.expect(t, csm.OpRST)
	expectEOF(t, program)
	p.expectNames(t, "b")
	_, err := p.client.Drain(t.Context(), "a", 0)
	expectRefused(t, err, http.StatusNotFound, `"a"`)
	p.stop(t, unix.SIGTERM)
}

// A drain goes on when the client that asked for it has gone.
func TestControlDrainsWithoutItsClient(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	asked := dial(t, "c")
	if _, err := fmt.Fprint(asked, "POST /v1/vms/a/drain HTTP/1.1\r\nHost: c\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return p.show(t, "a").State == control.Draining })
	asked.Close()
	g.mustCarry(t, program, []byte("still here"))
	program.Close()
	g.expect(t, csm.OpShutdown)
	g.send(csm.OpRST, nil)
	waitFor(t, func() bool {
		_, err := p.client.VM(t.Context(), "a")
		return err != nil
	})
	p.expectNames(t, "b")
	p.stop(t, unix.SIGTERM)
}

// A drain ends with the program, with the VM, or with nothing to wait for.
func TestControlDrainEndsOtherwise(t *testing.T) {
	inTempDir(t)
	p := startControlledFleet(t)
	idle := p.drain(t, "b", 0)
	if d := <-idle; d.err != nil || d.ConnectionsCut != 0 {
		t.Errorf("without a connection: %+v", d)
	}
	p.mustAdd(t, keysC)
	a, c := startGuestOf(t, "a", 3, 9), startGuestOf(t, "c", 5, 9)
	a.connect(t, listenAt(t, "ua_9"))
	c.connect(t, listenAt(t, "uc_9"))
	removed := p.drain(t, "c", 0)
	if err := p.client.Remove(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	if d := <-removed; d.err != nil || d.ConnectionsCut != 1 {
		t.Errorf("removed meanwhile: %+v", d)
	}
	ends := p.drain(t, "a", time.Hour)
	p.stop(t, unix.SIGTERM)
	expectRefused(t, (<-ends).err, http.StatusServiceUnavailable, "the program ends")
}

// A session that ends takes the connections with it, and the VM does not begin anew
// for what was to change then.
func TestControlDrainEndsWithTheSession(t *testing.T) {
	p := startControlledFile(t, "vms:\n"+vmA)
	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	p.reload(t, controlKey+"vms:\n"+packedA)
	if a := p.show(t, "a"); !slices.Equal(a.WaitingOptions, []string{"socket", "packed"}) {
		t.Errorf("a: %+v", a)
	}
	drained := p.drain(t, "a", 0)
	g.frontend.Close()
	expectEOF(t, program)
	if d := <-drained; d.err != nil {
		t.Error(d.err)
	}
	p.expectNames(t)
	expectGone(t, "sa", "sa2")
	p.stop(t, unix.SIGTERM)
}

// A reload leaves alone what came by the interface, unless the file has it now; and
// brings back what went by it.
func TestControlBesideReloads(t *testing.T) {
	p := startControlledFile(t, "vms:\n"+vmA+vmB)
	p.mustAdd(t, keysC)
	g := startGuestOf(t, "c", 5, 9)
	program := g.connect(t, listenAt(t, "uc_9"))
	if err := p.client.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	p.expectNames(t, "a", "c")

	p.reload(t, controlKey+"vms:\n"+vmB)
	p.expectNames(t, "c", "b")
	p.reload(t, controlKey+"vms:\n"+vmB) // and once more
	if c := p.show(t, "c"); c.Origin != control.FromControl {
		t.Errorf("c: %+v", c)
	}
	g.mustCarry(t, program, []byte("still here"))

	p.reload(t, controlKey+"vms:\n- {name: c, guest-cid: 5, socket: sc, uds-path: uc, max-buffered: 1MiB}\n")
	p.expectNames(t, "c")
	if c := p.show(t, "c"); c.Origin != control.FromConfig || c.MaxBuffered != 1<<20 || c.State != control.Running {
		t.Errorf("c: %+v", c)
	}
	g.mustCarry(t, program, []byte("and the same"))
	p.reload(t, controlKey+"vms: []\n") // what is the file's now goes with it
	expectEOF(t, program)
	p.expectNames(t)

	// One without a name goes by its socket.
	p.mustAdd(t, `{"guest-cid": 5, "socket": "sc", "uds-path": "uc"}`)
	p.reload(t, controlKey+"vms:\n- {guest-cid: 6, socket: sc, uds-path: uc}\n")
	p.expectNames(t, "cid5")
	if vm := p.show(t, "cid5"); vm.Origin != control.FromConfig {
		t.Errorf("cid5: %+v", vm)
	}

	// The defaults of the file as it was read last hold for who comes.
	p.reload(t, controlKey+"defaults: {max-buffered: 2MiB}\nvms: []\n")
	if c := p.mustAdd(t, keysC); c.MaxBuffered != 2<<20 {
		t.Errorf("c: %+v", c)
	}
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "config", "uc_9")
}

// A level holds until the next reload says otherwise.
func TestControlSetsTheLogLevel(t *testing.T) {
	p := startControlledFile(t, "vms: []\n")
	if level, err := p.client.LogLevel(t.Context()); err != nil || level != "info" {
		t.Errorf("level %q, error %v", level, err)
	}
	if err := p.client.SetLogLevel(t.Context(), "warn"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "from=info to=warn") })
	if level, err := p.client.LogLevel(t.Context()); err != nil || level != "warn" {
		t.Errorf("level %q, error %v", level, err)
	}
	p.mustAdd(t, keysC)
	expectRefused(t, p.client.SetLogLevel(t.Context(), "loud"), http.StatusBadRequest, `level "loud"`, "error, warn, info or debug")
	if err := p.client.SetLogLevel(t.Context(), "info"); err != nil {
		t.Fatal(err)
	}
	if err := p.client.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "VM is removed") })
	if log := p.stderr.String(); strings.Contains(log, "VM is added") {
		t.Errorf("log: %s", log)
	}
	p.reload(t, controlKey+"log-level: debug\nvms: []\n")
	if level, err := p.client.LogLevel(t.Context()); err != nil || level != "debug" {
		t.Errorf("level %q, error %v", level, err)
	}
	p.stop(t, unix.SIGTERM)
}

// A guest that reached the socket could do all that its owner can.
func TestControlSocketIsNotForGuests(t *testing.T) {
	inTempDir(t)
	p := startControlled(t)
	p.mustAdd(t, keysC)
	startGuestOf(t, "c", 5, 22).expectApart(t, "uc_22", "c")
	p.stop(t, unix.SIGTERM)
}

// A stale socket is replaced; one that somebody listens on is not.
func TestControlSocketInTheWay(t *testing.T) {
	inTempDir(t)
	l := listenAt(t, "c")
	p := startProcess(t, nil, "--control", "c", "--socket", "s", "--uds-path", "u")
	p.expectExit(t, exitError, testLimit)
	if log := p.stderr.String(); !strings.Contains(log, "--control: socket c: ") || !strings.Contains(log, "listening") {
		t.Errorf("log: %s", log)
	}
	expectFiles(t, "c")
	l.SetUnlinkOnClose(false)
	l.Close()
	startControlled(t).expectNames(t)
}

// Whatever somebody sends who may connect, the program goes on.
func TestControlOutlivesItsClients(t *testing.T) {
	inTempDir(t)
	p := startControlled(t)
	for range 20 { // more than may be connected at once
		c := dial(t, "c")
		if _, err := c.Write([]byte("\x00\xff no HTTP\r\n\r\n")); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		c.Close()
	}
	p.expectNames(t)
	p.stop(t, unix.SIGTERM)
}
