package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v4"
)

// Keys of the file that are no options.
const (
	keyDefaults = "defaults" // options of VMs that say nothing else
	keyVMs      = "vms"      // the list of VMs
)

// maxFile is the size of the largest file in bytes: thousands of VMs.
const maxFile = 4 << 20

// file is a configuration file taken apart. No value of an option was looked at
// yet: it is what is written, as on the command line, so that no rule of YAML
// for numbers or switches changes it.
type file struct {
	program  section
	defaults section
	vms      []section
}

// fileReader makes sections of a file's nodes.
type fileReader struct {
	path string
	file file
}

// readFile reads the file at path. Its errors name the line.
func readFile(path string) (file, error) {
	text, err := readRegular(path, maxFile+1)
	switch {
	case err != nil:
		return file{}, fmt.Errorf("--config: %w", err)
	case len(text) > maxFile:
		return file{}, fmt.Errorf("--config %q: larger than %d bytes", path, maxFile)
	}
	r := fileReader{path: path}
	root, err := r.parse(text)
	if err == nil {
		err = r.readRoot(root)
	}
	return r.file, err
}

// parse returns the one document of text.
func (r *fileReader) parse(text []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var document, second yaml.Node
	err = loader.Load(&document)
	if errors.Is(err, io.EOF) || err == nil && len(document.Content) != 1 {
		return nil, fmt.Errorf("%s: it is empty; list the VMs under %s", r.path, keyVMs)
	}
	if err == nil {
		if err = loader.Load(&second); errors.Is(err, io.EOF) {
			return document.Content[0], nil
		}
	}
	if bad, ok := errors.AsType[*yaml.LoadError](err); ok {
		return nil, fmt.Errorf("%s:%d: not YAML: %s", r.path, bad.Mark.Line, bad.Message)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not YAML: %w", r.path, err)
	}
	return nil, fmt.Errorf("%s:%d: another document; put all into one", r.path, second.Line)
}

// at is the beginning of an error about n.
func (r *fileReader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.path, n.Line) }

// errorAt is an error about n.
func (r *fileReader) errorAt(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s: %w", r.at(n), fmt.Errorf(format, args...))
}

func (r *fileReader) readRoot(root *yaml.Node) error {
	r.file.program = section{place: r.at(root), inFile: true}
	r.file.defaults = section{inFile: true}
	listed := false
	err := r.eachKey(root, func(key, val *yaml.Node) (err error) {
		switch key.Value {
		case keyDefaults:
			r.file.defaults, err = r.readVM(val, true)
			return err
		case keyVMs:
			listed = true
			return r.readVMs(val)
		}
		o := optionNamed(key.Value)
		if o != nil && o.vm != nil {
			return r.errorAt(key, "%s: an option of a VM; put it under %s or %s", key.Value, keyVMs, keyDefaults)
		}
		return r.noteValues(&r.file.program, o, key, val)
	})
	if err == nil && !listed {
		return r.errorAt(root, "%s: missing; list the VMs", keyVMs)
	}
	return err
}

// readVMs reads the list of VMs.
func (r *fileReader) readVMs(list *yaml.Node) error {
	list = resolve(list)
	if list.Kind != yaml.SequenceNode {
		return r.errorAt(list, "%s: not a list; begin each VM with a dash", keyVMs)
	}
	for _, n := range list.Content {
		s, err := r.readVM(n, false)
		if err != nil {
			return err
		}
		r.file.vms = append(r.file.vms, s)
	}
	return nil
}

// readVM reads the options of a VM, or those that VMs have by default.
func (r *fileReader) readVM(n *yaml.Node, defaults bool) (section, error) {
	s := section{place: r.at(n), inFile: true}
	err := r.eachKey(n, func(key, val *yaml.Node) error {
		o := optionNamed(key.Value)
		switch {
		case o != nil && o.vm == nil:
			return r.errorAt(key, "%s: an option of the program; put it at the top, beside %s", key.Value, keyVMs)
		case o != nil && o.flag:
			return r.errorAt(key, "%s: only on the command line, for a file is read again when no descriptor can be inherited", key.Value)
		case o != nil && o.unique && defaults:
			return r.errorAt(key, "%s: only one VM can have it; put it under %s", key.Value, keyVMs)
		}
		return r.noteValues(&s, o, key, val)
	})
	return s, err
}

// noteValues adds what is given for the option o; nil: there is none of the key's
// name.
func (r *fileReader) noteValues(s *section, o *option, key, val *yaml.Node) error {
	if o == nil {
		return r.errorAt(key, "%s: no such key", key.Value)
	}
	val = resolve(val)
	each := []*yaml.Node{val}
	if o.list && val.Kind == yaml.SequenceNode {
		each = val.Content
	}
	for _, n := range each {
		n = resolve(n)
		switch {
		case n.Kind != yaml.ScalarNode:
			return r.errorAt(n, "%s: not a single value", key.Value)
		case n.ShortTag() == "!!null":
			return r.errorAt(n, "%s: no value; give one, or drop the key", key.Value)
		}
		if err := s.note(o, value{r.at(n) + ": " + o.name, n.Value}); err != nil {
			return r.errorAt(key, "%s %q: %w", key.Value, n.Value, err)
		}
	}
	return nil
}

// eachKey visits the pairs of a mapping whose keys are all different.
func (r *fileReader) eachKey(n *yaml.Node, visit func(key, val *yaml.Node) error) error {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return r.errorAt(n, "not keys with values; write KEY: VALUE")
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return r.errorAt(key, "a key that is no word")
		}
		if line, again := lines[key.Value]; again {
			return r.errorAt(key, "%s: given in line %d, too; give it once", key.Value, line)
		}
		lines[key.Value] = key.Line
		if err := visit(key, val); err != nil {
			return err
		}
	}
	return nil
}

// resolve returns the node itself where n is an alias of one.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
