// Image and masks in 3D. The library is loaded from this server, and only when it is needed.
const canvas = element.querySelector("canvas");
const note = element.querySelector("p");
let viewer = null;

const library = () => window.niivue ? Promise.resolve() : new Promise((done, failed) => {
  const script = document.createElement("script");
  script.src = new URL("PAGE_FILES/niivue.umd.js", document.baseURI).href;
  script.onload = done;
  script.onerror = () => failed(new Error("the viewer could not be loaded"));
  document.head.appendChild(script);
});

async function show() {
  const scene = props.value;
  if (!scene || !scene.image) return;
  try {
    await library();
    canvas.style.display = "block";
    note.style.display = "none";
    if (!viewer) {
      viewer = new window.niivue.Niivue({
        backColor: [0.09, 0.09, 0.11, 1], show3Dcrosshair: false, isColorbar: false,
        multiplanarShowRender: 1, multiplanarLayout: 2, isRadiologicalConvention: true,
        loadingText: "", logLevel: "error",
      });
      await viewer.attachToCanvas(canvas);
    }
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    const { NVImage } = window.niivue;
    const image = await NVImage.loadFromBase64({
      base64: scene.image, name: "image.nii.gz", colormap: "gray", opacity: 1,
    });
    const mask = await NVImage.loadFromBase64({ base64: scene.mask, name: "mask.nii.gz", opacity: 0.8 });
    viewer.addVolume(image);
    viewer.addVolume(mask);
    viewer.volumes[1].setColormapLabel(scene.colors);
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    viewer.setRenderAzimuthElevation(120, 15);
    viewer.opts.renderOverlayBlend = 1;
    viewer.updateGLVolume();
    canvas.dataset.volumes = viewer.volumes.length;
    canvas.dataset.stamp = scene.stamp;
  } catch (error) {
    canvas.style.display = "none";
    note.style.display = "";
    note.textContent = `No 3D picture here: ${error.message || error}. It needs WebGL 2.`;
  }
}
watch("value", show);
show();
