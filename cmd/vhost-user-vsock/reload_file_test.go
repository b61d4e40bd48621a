package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// Lines of a configuration file. Each VM has its sockets in the working directory.
const (
	vmA = "- {name: a, guest-cid: 3, socket: sa, uds-path: ua}\n"
	vmB = "- {name: b, guest-cid: 4, socket: sb, uds-path: ub}\n"
	vmC = "- {name: c, guest-cid: 5, socket: sc, uds-path: uc}\n"
)

// filed is the program with a configuration file.
type filed struct {
	*process
	reloads int // so far
}

// startFiled starts the program, in its sandbox, with a file that holds text.
func startFiled(t *testing.T, text string) *filed {
	t.Helper()
	return startFiledBy(t, nil, text)
}

func startFiledBy(t *testing.T, prepare func(*exec.Cmd), text string) *filed {
	t.Helper()
	inTempDir(t)
	writeConfig(t, text)
	p := startProcess(t, prepare, "--config", "config/f", "--metrics-addr", "127.0.0.1:0")
	p.expectReady(t)
	return &filed{process: p}
}

// writeConfig replaces the file as editors and package managers do.
func writeConfig(t *testing.T, text string) {
	t.Helper()
	if err := os.MkdirAll("config", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("config/new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("config/new", "config/f"); err != nil {
		t.Fatal(err)
	}
}

// reload has the program read text, and waits until it has. It returns what was
// logged meanwhile.
func (p *filed) reload(t *testing.T, text string) string {
	t.Helper()
	writeConfig(t, text)
	before := len(p.stderr.String())
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.reloads++
	waitFor(t, func() bool {
		log := p.stderr.String()
		return strings.Count(log, "configuration was read again")+strings.Count(log, "configuration stays as it is") == p.reloads
	})
	return p.stderr.String()[before:]
}

// expectMetrics looks for series with their values.
func (p *filed) expectMetrics(t *testing.T, want ...string) {
	t.Helper()
	metrics := p.scrape(t)
	for _, w := range want {
		if !strings.Contains(metrics, "\nvhost_user_vsock_"+w+"\n") {
			t.Errorf("missing: %s", w)
		}
	}
}

// dialForCID connects a frontend that can ask for the CID.
func dialForCID(t *testing.T, path string) *vhostusertest.Frontend {
	t.Helper()
	frontend := vhostusertest.Dial(t, path)
	frontend.SetProtocolFeatures(vhostuser.ProtocolConfig)
	return frontend
}

func expectGone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: error %v, want it gone", path, err)
		}
	}
}

func TestReloadAddsAndRemovesBesideOthers(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA+vmB)
	a, b := startGuestOf(t, "a", 3, 9), startGuestOf(t, "b", 4, 9)
	pa, pb := a.connect(t, listenAt(t, "ua_9")), b.connect(t, listenAt(t, "ub_9"))

	p.reload(t, "vms:\n"+vmA+vmC)
	expectEOF(t, pb)
	expectGone(t, "sb", "ub", "ub_seqpacket")
	a.mustCarry(t, pa, []byte("as if nothing were"))
	c := startGuestOf(t, "c", 5, 9)
	c.mustCarry(t, c.connect(t, listenAt(t, "uc_9")), []byte("new"))
	p.expectMetrics(t, `vm_up{vm="a"} 1`, `vm_up{vm="c"} 1`, `sessions_started_total{vm="a"} 1`, `reloads_total{result="applied"} 1`)
	if strings.Contains(p.scrape(t), `vm="b"`) {
		t.Error("metrics still show b")
	}
	p.stop(t, unix.SIGTERM)
	expectGone(t, "sa", "ua", "sc", "uc")
}

// A guest must not reach the sockets of a VM that came later either.
func TestReloadKeepsVMsApart(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA)
	a := startGuestOf(t, "a", 3, 22)
	p.reload(t, "vms:\n"+vmA+vmC)
	a.expectApart(t, "ua_22", "sc", "uc")
	p.stop(t, unix.SIGTERM)
}

func TestReloadOfAFaultyFileChangesNothing(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA+vmB)
	a := startGuestOf(t, "a", 3, 9)
	program := a.connect(t, listenAt(t, "ua_9"))
	log := p.reload(t, "log-level: debug\nvms:\n"+vmC+"- {name: d, socket: sd, uds-path: ud, speed: 3}\n")
	if !strings.Contains(log, "config/f:4: speed: no such key") {
		t.Errorf("log: %s", log)
	}
	expectGone(t, "sc", "sd")
	a.mustCarry(t, program, []byte("still here"))
	expectAnswer(t, dial(t, "sb"))
	p.expectMetrics(t, `reloads_total{result="refused"} 1`, `reloads_total{result="applied"} 0`)
	if log := p.reload(t, "vms:\n"+vmA+vmB); !strings.Contains(log, "read again") {
		t.Errorf("log: %s", log)
	}
	p.stop(t, unix.SIGTERM)
}

// There may be no VM at all for a while.
func TestReloadBeginsWithNothing(t *testing.T) {
	const dir = "runtime-dir: .\n"
	p := startFiled(t, dir+"vms: []\n")
	p.reload(t, dir+"vms:\n"+vmA)
	expectAnswer(t, dial(t, "sa"))
	p.reload(t, dir+"vms: []\n")
	expectGone(t, "sa", "ua")
	p.reload(t, dir+"vms:\n"+vmA)
	expectAnswer(t, dial(t, "sa"))
	p.stop(t, unix.SIGTERM)
}

// What applies at once does so without a new session.
func TestReloadChangesWhatIsLive(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA)
	frontend := dialForCID(t, "sa")
	expectCID(t, frontend, 3)
	p.reload(t, "log-level: debug\nvms:\n- {name: a, guest-cid: 7, socket: sa, uds-path: ua, max-buffered: 1MiB}\n")
	expectCID(t, frontend, 7)
	p.expectMetrics(t, `buffered_limit_bytes{vm="a"} 1.048576e+06`, `sessions_started_total{vm="a"} 1`,
		`vm_waiting_options{vm="a"} 0`, "waiting_options 0")
	p.reload(t, "log-format: json\nvms:\n"+vmA)
	p.expectMetrics(t, "waiting_options 1")

	log := p.stderr.String()
	writeConfig(t, "log-level: error\nvms:\n"+vmA)
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `reloads_total{result="applied"} 3`) })
	p.stop(t, unix.SIGTERM)
	if more := strings.TrimPrefix(p.stderr.String(), log); more != "" {
		t.Errorf("log: %s", more)
	}
}

// A VM without a name goes by its socket when its CID changes.
func TestReloadKnowsAVMWithoutName(t *testing.T) {
	p := startFiled(t, "vms:\n- {guest-cid: 3, socket: sa, uds-path: ua}\n")
	frontend := dialForCID(t, "sa")
	expectCID(t, frontend, 3)
	p.reload(t, "vms:\n- {guest-cid: 4, socket: sa, uds-path: ua}\n")
	expectCID(t, frontend, 4)
	p.expectMetrics(t, `guest_cid{state="active",vm="cid3"} 4`, `vm_waiting_options{vm="cid3"} 0`)
	log := p.reload(t, "vms:\n- {guest-cid: 4, socket: sa, uds-path: ua}\n- {guest-cid: 3, socket: sb, uds-path: ub}\n")
	if !strings.Contains(log, "stays as it is") || !strings.Contains(log, "cid3") {
		t.Errorf("log: %s", log)
	}
	p.stop(t, unix.SIGTERM)
}

const packedA = "- {name: a, guest-cid: 3, socket: sa2, uds-path: ua, packed: true}\n"

// What needs another session waits until the frontend has left.
func TestReloadWaitsForTheFrontend(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA+vmB)
	a := startGuestOf(t, "a", 3, 9)
	l := listenAt(t, "ua_9")
	program := a.connect(t, l)
	log := p.reload(t, "vms:\n"+packedA+vmB)
	if !strings.Contains(log, "socket packed") {
		t.Errorf("log: %s", log)
	}
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 2`)
	expectGone(t, "sa2")
	a.mustCarry(t, program, []byte("as long as it lasts"))

	a.frontend.Close()
	p.await(t, "sa2")
	expectEOF(t, program)
	expectGone(t, "sa")
	const packed = 1 << 34 // VIRTIO_F_RING_PACKED
	if features := vhostusertest.Dial(t, "sa2").GetFeatures(); features&packed == 0 {
		t.Errorf("features %#x", features)
	}
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 0`, `vm_up{vm="a"} 1`)
	p.stop(t, unix.SIGTERM)
}

// Whoever is at the door when the frontend leaves may be the next one, and is not
// turned away. The VM begins anew when nobody is left.
func TestReloadWaitsForTheNextFrontend(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA)
	first := dial(t, "sa")
	expectAnswer(t, first)
	next := dial(t, "sa")
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `frontend_candidates{vm="a"} 1`) })
	p.reload(t, "vms:\n"+packedA)
	first.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `frontend_attached{vm="a"} 0`) })
	expectAnswer(t, next)
	expectGone(t, "sa2")
	silent := dial(t, "sa")
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `frontend_candidates{vm="a"} 1`) })
	next.Close()
	silent.Close()
	p.await(t, "sa2")
	p.stop(t, unix.SIGTERM)
}

// Without a frontend there is nothing to wait for; what is taken back was never
// there.
func TestReloadWaitsForNobody(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA)
	frontend := dial(t, "sa")
	expectAnswer(t, frontend)
	p.reload(t, "vms:\n"+packedA)
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 2`)
	p.reload(t, "vms:\n"+vmA)
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 0`)
	frontend.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `frontend_attached{vm="a"} 0`) })
	frontend = dial(t, "sa")
	expectAnswer(t, frontend)
	frontend.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `frontend_attached{vm="a"} 0`) })
	p.reload(t, "vms:\n"+packedA)
	p.await(t, "sa2")
	expectGone(t, "sa")
	p.stop(t, unix.SIGTERM)
}

// Two VMs that change places have to wait for each other.
func TestReloadChangesPlaces(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA+vmB)
	a, b := dial(t, "sa"), dial(t, "sb")
	expectAnswer(t, a)
	expectAnswer(t, b)
	p.reload(t, "vms:\n- {name: a, guest-cid: 3, socket: sb, uds-path: ub}\n- {name: b, guest-cid: 4, socket: sa, uds-path: ua}\n")
	a.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `vm_up{vm="a"} 0`) })
	expectAnswer(t, b)
	b.Close()
	waitFor(t, func() bool {
		metrics := p.scrape(t)
		return strings.Contains(metrics, `vm_up{vm="a"} 1`) && strings.Contains(metrics, `vm_up{vm="b"} 1`)
	})
	expectCID(t, dialForCID(t, "sb"), 3)
	expectCID(t, dialForCID(t, "sa"), 4)
	p.stop(t, unix.SIGTERM)
}

// A VM that cannot start then fails alone, and can be tried again.
func TestReloadWithATakenPath(t *testing.T) {
	p := startFiled(t, "vms:\n"+vmA)
	a := startGuestOf(t, "a", 3, 9)
	program := a.connect(t, listenAt(t, "ua_9"))
	taken := listenAt(t, "sc")
	log := p.reload(t, "vms:\n"+vmA+vmC)
	if !strings.Contains(log, "VM failed") || !strings.Contains(log, "vm=c") {
		t.Errorf("log: %s", log)
	}
	p.expectMetrics(t, `vm_up{vm="c"} 0`, `vm_failures_total{vm="c"} 1`, `vm_up{vm="a"} 1`)
	a.mustCarry(t, program, []byte("not my trouble"))
	expectGone(t, "uc")
	taken.Close()
	p.reload(t, "vms:\n"+vmA+vmC)
	p.expectMetrics(t, `vm_up{vm="c"} 1`)
	expectAnswer(t, dial(t, "sc"))
	p.stop(t, unix.SIGTERM)
}

// VMs that come and go change the share of descriptors that each has.
func TestReloadSharesDescriptors(t *testing.T) {
	prepare := func(cmd *exec.Cmd) { shell(t, cmd, `ulimit -n 500 && exec "$0" "$@"`) }
	p := startFiledBy(t, prepare, "vms:\n"+vmA)
	p.expectMetrics(t, `connections_limit{vm="a"} 324`) // 500 - 64 - 112
	p.reload(t, "vms:\n"+vmA+vmC)
	p.expectMetrics(t, `connections_limit{vm="a"} 106`, `connections_limit{vm="c"} 106`) // (500 - 64 - 2*112) / 2
	p.reload(t, "vms:\n"+vmA+vmB+vmC+"- {name: d, socket: sd, uds-path: ud}\n")
	p.expectMetrics(t, `connections_limit{vm="a"} 33`, `vm_up{vm="d"} 0`) // (500 - 64 - 3*112) / 3
	if log := p.stderr.String(); !strings.Contains(log, "500 open files") {
		t.Errorf("log: %s", log)
	}
	p.reload(t, "vms:\n"+vmA)
	p.expectMetrics(t, `connections_limit{vm="a"} 324`)
	p.stop(t, unix.SIGTERM)
}

// The sandbox keeps the directories it began with.
func TestReloadOutsideTheSandbox(t *testing.T) {
	if landlockABI() == 0 {
		t.Skip("this kernel has no Landlock")
	}
	inTempDir(t)
	for _, dir := range []string{"granted", "later", "not"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeConfig(t, "runtime-dir: later\nvms:\n- {name: a, socket: granted/s, uds-path: granted/u}\n")
	p := &filed{process: startProcess(t, nil, "--config", "config/f", "--metrics-addr", "127.0.0.1:0")}
	p.expectReady(t)
	in := func(dir string) string {
		return "runtime-dir: later\nvms:\n- {name: a, socket: granted/s, uds-path: granted/u}\n- name: b\n  socket: " +
			dir + "/sb\n  uds-path: " + dir + "/ub\n"
	}
	real, err := filepath.EvalSymlinks("not")
	if err != nil {
		t.Fatal(err)
	}
	log := p.reload(t, in("not"))
	for _, want := range []string{"config/f:6: uds-path", real, "runtime-dir"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is missing in the log: %s", want, log)
		}
	}
	expectGone(t, "not/sb", "not/ub")
	if err := os.Symlink("../not", "granted/link"); err != nil {
		t.Fatal(err)
	}
	if log := p.reload(t, in("granted/link")); !strings.Contains(log, real) {
		t.Errorf("log: %s", log)
	}
	if err := os.Mkdir("later/below", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"later", "later/below", "granted"} {
		if log := p.reload(t, in(dir)); !strings.Contains(log, "read again") {
			t.Errorf("log: %s", log)
		}
		expectAnswer(t, dial(t, dir+"/sb"))
		p.reload(t, "vms:\n- {name: a, socket: granted/s, uds-path: granted/u}\n")
		expectGone(t, dir+"/sb", dir+"/ub")
	}
	if err := os.WriteFile("later/cid", []byte("8"), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("vms:\n- {name: a, socket: granted/s, uds-path: granted/u}\n- {name: b, socket: later/s, uds-path: later/u, guest-cid: %s/later/cid}\n", here)
	p.reload(t, text)
	expectCID(t, dialForCID(t, "later/s"), 8)
	if log := p.reload(t, strings.Replace(text, "later/cid", "not/cid", 1)); !strings.Contains(log, "config/f:3: guest-cid") || !strings.Contains(log, real) {
		t.Errorf("log: %s", log)
	}
	p.stop(t, unix.SIGTERM)
}

// All that a file can ask for works inside the sandbox.
func TestReloadGivesSocketsTheirOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	p := startFiled(t, "vms:\n"+vmA)
	p.reload(t, "vms:\n"+vmA+"- {name: c, guest-cid: 5, socket: sc, uds-path: uc, uds-owner: nobody, uds-mode: 0666, socket-mode: 0640, socket-owner: '0:12'}\n")
	p.expectMetrics(t, `vm_up{vm="c"} 1`)
	for path, want := range map[string][3]uint32{"uc": {65534, 0, 0o666}, "sc": {0, 12, 0o640}} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if got := [3]uint32{st.Uid, st.Gid, st.Mode & 0o777}; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	p.stop(t, unix.SIGTERM)
}

// startFloodOfB has the guest of b leave bytes behind that its host program has
// not read.
func startFloodOfB(t *testing.T) (p *filed, program net.Conn, sent []byte) {
	t.Helper()
	p = startFiled(t, "vms:\n"+vmA+vmB)
	b := startGuestOf(t, "b", 4, 9)
	c := b.connect(t, listenAt(t, "ub_9"))
	return p, c, b.flood(t)
}

func TestReloadWritesWhatARemovedVMLeft(t *testing.T) {
	p, program, sent := startFloodOfB(t)
	writeConfig(t, "vms:\n"+vmA)
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { _, err := os.Lstat("sb"); return os.IsNotExist(err) })
	expectRead(t, program, sent)
	waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "VM is removed") })
	p.stop(t, unix.SIGTERM)
}

// A host program that does not read holds up neither the reload for long nor the
// end of the program.
func TestReloadWaitsOnlySoLong(t *testing.T) {
	p, _, _ := startFloodOfB(t)
	begin := time.Now()
	p.reload(t, "vms:\n"+vmA)
	if took := time.Since(begin); took < tailLimit {
		t.Errorf("it gave up after %v", took)
	}
	expectAnswer(t, dial(t, "sa"))
	p.stop(t, unix.SIGTERM)
}

func TestReloadDoesNotHoldUpTheEnd(t *testing.T) {
	p, program, sent := startFloodOfB(t)
	writeConfig(t, "vms:\n"+vmA+vmC)
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { _, err := os.Lstat("sb"); return os.IsNotExist(err) })
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expectRead(t, program, sent)
	p.expectExit(t, exitOK, stopLimit)
	expectGone(t, "sa", "sc")
}
