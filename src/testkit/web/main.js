// Hydrogen, as its own page starts it. The test drives what it shows; `hydrogen` is for registering, for which it
// has no form.
import { Client, FeatureSet, Platform, RootViewModel, createNavigation, createRouter } from "hydrogen-view-sdk";

async function main() {
    const platform = new Platform({
        container: document.querySelector("#app"),
        assetPaths: {
            downloadSandbox: "download-sandbox.html",
            worker: "worker.js",
            olm: { wasm: "olm.wasm", legacyBundle: "olm_legacy.js", wasmBundle: "olm.js" },
            serviceWorker: "sw.js",
        },
        config: { defaultHomeServer: new URLSearchParams(location.search).get("server") },
    });
    const navigation = createNavigation();
    platform.setNavigation(navigation);
    await platform.init();
    const urlRouter = createRouter({ navigation, history: platform.history });
    urlRouter.attach();
    const features = await FeatureSet.load(platform.settingsStorage);
    const root = new RootViewModel({ platform, urlRouter, navigation, features });
    await root.load();
    platform.createAndMountRootView(root);
    window.hydrogen = { platform, Client };
}

main();
