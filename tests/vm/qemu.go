package vm

import (
	"os"
	"os/exec"
	"path/filepath"
)

// emulator is a QEMU program and where its firmware lies.
type emulator struct {
	program  string
	firmware []string
}

// qemu7 is Debian 12's own.
var qemu7 = emulator{program: "qemu-system-x86_64"}

// qemu10 is the one from bookworm-backports where "make deps" could unpack it, else
// Debian 12's own.
func qemu10() (emulator, error) {
	top, err := root()
	if err != nil {
		return emulator{}, err
	}
	usr := filepath.Join(top, "build", "guest", "qemu-10", "usr")
	e := emulator{
		program:  filepath.Join(usr, "bin", "qemu-system-x86_64"),
		firmware: []string{filepath.Join(usr, "share", "qemu"), filepath.Join(usr, "share", "seabios")},
	}
	if _, err := os.Stat(e.program); err != nil {
		return qemu7, nil
	}
	return e, nil
}

// BootQEMU boots Linux 6.1 under QEMU 7.2 with d's device.
func BootQEMU(t TB, d *Daemon) *Guest { t.Helper(); return bootQEMU(t, d, "") }

// BootQEMUPacked is BootQEMU with packed rings, which d must offer.
func BootQEMUPacked(t TB, d *Daemon) *Guest { t.Helper(); return bootQEMU(t, d, packed) }

// BootQEMU10 boots Linux 6.12 under QEMU 10 with d's device.
func BootQEMU10(t TB, d *Daemon) *Guest { t.Helper(); return bootQEMU10(t, d, "") }

// BootQEMU10Packed is BootQEMU10 with packed rings, which d must offer.
func BootQEMU10Packed(t TB, d *Daemon) *Guest { t.Helper(); return bootQEMU10(t, d, packed) }

// packed is the device's option that has QEMU pass VIRTIO_F_RING_PACKED on.
const packed = ",packed=on"

func bootQEMU(t TB, d *Daemon, device string) *Guest {
	t.Helper()
	k, err := linux61()
	if err != nil {
		t.Fatalf("Linux 6.1: %v", err)
	}
	return boot(t, d, "qemu", qemu7, k, device)
}

func bootQEMU10(t TB, d *Daemon, device string) *Guest {
	t.Helper()
	k, err := linux612()
	if err != nil {
		t.Fatalf("Linux 6.12: %v", err)
	}
	e, err := qemu10()
	if err != nil {
		t.Fatalf("QEMU 10: %v", err)
	}
	return boot(t, d, "qemu10", e, k, device)
}

// boot starts a machine without KVM whose memory the device can map, and waits
// until its init serves. device has further options of the device.
func boot(t TB, d *Daemon, name string, e emulator, k kernel, device string) *Guest {
	t.Helper()
	dir := tempDir(t)
	monitor := filepath.Join(dir, "qmp")
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-accel", "tcg", "-cpu", "max", "-m", "256M",
		"-object", "memory-backend-memfd,id=memory,size=256M,share=on",
		"-numa", "node,memdev=memory",
		"-chardev", "socket,id=vsock,path=" + d.Socket,
		"-device", "vhost-user-vsock-pci,chardev=vsock" + device,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:" + monitor + ",server=on,wait=off",
		"-kernel", k.image, "-initrd", k.initrd,
		"-append", "console=ttyS0 panic=-1 loglevel=4 no_timer_check cryptomgr.notests",
	}
	for _, dir := range e.firmware {
		args = append(args, "-L", dir)
	}
	p := start(t, name, exec.Command(e.program, args...))
	return newGuest(t, d, p, dialQMP(t, monitor))
}
