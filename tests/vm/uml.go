package vm

import (
	"os"
	"os/exec"
)

// BootUML boots User-Mode Linux with d's device and waits until its init serves.
func BootUML(t TB, d *Daemon) *Guest {
	t.Helper()
	k, err := uml()
	if err != nil {
		t.Fatalf("user-mode-linux: %v", err)
	}
	library, err := preload()
	if err != nil {
		t.Fatalf("preload for user-mode-linux: %v", err)
	}
	dir := umlDir(t)
	// At some random layouts of its address space UML spins before its kernel starts.
	cmd := exec.Command("setarch", "-R", k.image,
		"mem=256M",
		"initrd="+k.initrd,
		"virtio_uml.device="+d.Socket+":19", // virtio v1.4 §5.10.1
		"con=null", "con0=fd:0,fd:1", "console=tty0",
		"panic=-1", "loglevel=4",
		"uml_dir="+dir, "umid=guest",
	)
	// TMPDIR holds the guest's memory file; UML shares it with the device by descriptor.
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+library, "TMPDIR="+dir, "HOME="+dir)
	return newGuest(t, d, start(t, "uml", cmd), nil)
}

// umlDir makes a directory on a real file system, which /tmp need not be.
func umlDir(t TB) string {
	t.Helper()
	base, err := output("uml")
	if err == nil {
		err = os.MkdirAll(base, 0o755)
	}
	var dir string
	if err == nil {
		dir, err = os.MkdirTemp(base, "")
	}
	if err != nil {
		t.Fatalf("directory for user-mode-linux: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
