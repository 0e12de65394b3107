package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "github.com/matrix-org/complement"

// prepare makes a copy of Complement with our deployer in it and returns its folder. Complement is
// copied, as Go refuses to lay files over its module cache.
func prepare(here string, o options) (string, error) {
	from, err := find(here, o)
	if err != nil {
		return "", err
	}
	into := filepath.Join(o.work, "src")
	if err := os.RemoveAll(into); err != nil {
		return "", err
	}
	if err := os.CopyFS(into, os.DirFS(from)); err != nil {
		return "", err
	}
	if err := filepath.Walk(into, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode()|0o600) // the module cache is read-only
	}); err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(into, "procdeploy"), os.DirFS(filepath.Join(here, "procdeploy"))); err != nil {
		return "", err
	}
	hook, err := os.ReadFile(filepath.Join(here, "zz_procdeploy.go.in"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(into, "zz_procdeploy.go"), hook, 0o644); err != nil {
		return "", err
	}
	return into, patch(filepath.Join(into, "test_main.go"))
}

// patch gives OldDeploy the hook that Deploy has upstream.
func patch(file string) error {
	const line = "\treturn testPackage.OldDeploy(t, blueprint)\n"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if strings.Count(string(text), line) != 1 {
		return fmt.Errorf("%s is not as expected: OldDeploy changed upstream, adapt patch() in source.go", file)
	}
	hooked := "\tif customOldDeployer != nil {\n\t\treturn customOldDeployer(t, blueprint, testPackage.Config)\n\t}\n" + line
	return os.WriteFile(file, []byte(strings.Replace(string(text), line, hooked, 1)), 0o644)
}

// find returns a folder with Complement's source: the one that was asked for, a checkout of the
// pinned commit in the cache, or the Go module.
func find(here string, o options) (string, error) {
	if o.source != "" {
		return o.source, nil
	}
	version, err := pinned(here)
	if err != nil {
		return "", err
	}
	commit := version[strings.LastIndex(version, "-")+1:]
	if cache, err := os.UserCacheDir(); err == nil {
		checkout := filepath.Join(cache, "resuni", "complement-"+commit)
		if _, err := os.Stat(filepath.Join(checkout, "go.mod")); err == nil {
			return checkout, nil
		}
	}
	command := exec.Command("go", "mod", "download", "-json", module)
	command.Dir = here
	output, downloadErr := command.Output()
	var answer struct{ Dir, Error string }
	if err := json.Unmarshal(output, &answer); err != nil || answer.Dir == "" {
		return "", fmt.Errorf("the module %s %s can't be had (%v %s); put a checkout of commit %s into ~/.cache/resuni/complement-%s, or name one by COMPLEMENT_SRC",
			module, version, downloadErr, strings.TrimSpace(answer.Error), commit, commit)
	}
	return answer.Dir, nil
}

// pinned reads the version from our go.mod.
func pinned(here string) (string, error) {
	text, err := os.ReadFile(filepath.Join(here, "go.mod"))
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(words) >= 2 && words[0] == module {
			return words[1], nil
		}
	}
	return "", fmt.Errorf("%s is not in go.mod", module)
}
