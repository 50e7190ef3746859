"""Draws the poses that gst-nvinfer found, with NVIDIA's Python bindings (pyds).

    python3 pose_probe.py --uri file:///home/me/street.mp4 --output poses.mp4
    python3 pose_probe.py --uri rtsp://camera/stream --sink nveglglessink

Run it in the folder that models/export_deploy.py --deepstream wrote, after the parser was built.
In a pipeline of your own: pad.add_probe(Gst.PadProbeType.BUFFER, probe, skeleton) on the sink pad
of nvdsosd. It needs no other file of the toolkit than pose.json. See docs/deploy.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

HERE = Path(__file__).resolve().parent
MOST = 16  # lines or circles in one NvDsDisplayMeta
KPT_THRES = 0.5  # points with a confidence of at most this are not drawn


def keypoints(obj_meta: Any) -> np.ndarray:
    """(K, 3) x px, y px, confidence of an object, in pixels of the frame of the stream muxer.

    K is 0 for an object without a pose: of another model, or of a tracker that carries on while
    nvinfer skips frames. The box is the detector's; a tracker may have moved `rect_params`.
    """
    if not obj_meta.mask_params.size:
        return np.zeros((0, 3))
    points = np.array(obj_meta.mask_params.get_mask_array(), np.float64).reshape(-1, 3)
    box = obj_meta.detector_bbox_info.org_bbox_coords
    return points * [box.width, box.height, 1] + [box.left, box.top, 0]


Segment = Tuple[List[int], List[float]]  # x1 y1 x2 y2 or x y px; red, green, blue 0..1


def shapes(points: np.ndarray, skeleton: Dict[str, Any]) -> Tuple[List[Segment], List[Segment]]:
    """Limbs and points of one person that are to be drawn. Args: skeleton: see pose.json."""
    shown = (points[:, 2] > KPT_THRES) & (points[:, :2] >= 0).all(1)  # the display takes no sign
    pixels = np.rint(points[:, :2].clip(0, 1e6)).astype(int).tolist()
    limbs = [
        (pixels[a] + pixels[b], color)
        for (a, b), color in zip(skeleton["limbs"], skeleton["limb_colors"])
        if shown[a] and shown[b]
    ]
    return limbs, [(pixels[k], skeleton["point_colors"][k]) for k in np.flatnonzero(shown)]


def draw(pyds: Any, batch_meta: Any, frame_meta: Any, *, limbs: list, points: list) -> None:
    """Hand lines and circles to nvdsosd, as many display metas as they take."""
    for start in range(0, max(len(limbs), len(points)), MOST):
        display = pyds.nvds_acquire_display_meta_from_pool(batch_meta)
        lines, circles = limbs[start : start + MOST], points[start : start + MOST]
        display.num_lines, display.num_circles = len(lines), len(circles)
        for i, (ends, color) in enumerate(lines):
            line = display.line_params[i]
            line.x1, line.y1, line.x2, line.y2 = ends
            line.line_width = 3
            line.line_color.set(*color, 1.0)
        for i, (center, color) in enumerate(circles):
            circle = display.circle_params[i]
            circle.xc, circle.yc = center
            circle.radius = 4
            circle.circle_color.set(*color, 1.0)
            circle.has_bg_color = 1
            circle.bg_color.set(*color, 1.0)
        pyds.nvds_add_display_meta_to_frame(frame_meta, display)


def items(first: Any, cast: Any) -> Iterator[Any]:
    """What a list of metadata holds."""
    while first is not None:
        yield cast(first.data)
        try:
            first = first.next
        except StopIteration:
            return


def draw_batch(pyds: Any, batch_meta: Any, skeleton: Dict[str, Any]) -> None:
    """Draw every person of every frame of a batch."""
    for frame_meta in items(batch_meta.frame_meta_list, pyds.NvDsFrameMeta.cast):
        limbs: List[Segment] = []
        points: List[Segment] = []
        for obj_meta in items(frame_meta.obj_meta_list, pyds.NvDsObjectMeta.cast):
            found = keypoints(obj_meta)
            if len(found):
                of_one = shapes(found, skeleton)
                limbs, points = limbs + of_one[0], points + of_one[1]
        draw(pyds, batch_meta, frame_meta, limbs=limbs, points=points)


def probe(pad: Any, info: Any, skeleton: Dict[str, Any]) -> Any:
    """A buffer probe of GStreamer."""
    import pyds
    from gi.repository import Gst

    buffer = info.get_buffer()
    if buffer:
        draw_batch(pyds, pyds.gst_buffer_get_nvds_batch_meta(hash(buffer)), skeleton)
    return Gst.PadProbeReturn.OK


def run(args: argparse.Namespace) -> None:
    """One stream through nvinfer, drawn, to a file or the sink that was asked for."""
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import GLib, Gst

    Gst.init(None)
    skeleton = json.loads((HERE / "pose.json").read_text(encoding="utf-8"))
    width, height = skeleton["frame_wh"]
    encode = "nvvideoconvert ! nvv4l2h264enc ! h264parse ! qtmux ! filesink location=%s"
    pipeline = Gst.parse_launch(
        "uridecodebin uri=%s ! queue ! nvvideoconvert ! video/x-raw(memory:NVMM),format=NV12 ! "
        "mux.sink_0 "
        "nvstreammux name=mux batch-size=1 width=%d height=%d live-source=%d ! "
        "nvinfer config-file-path=%s ! nvvideoconvert ! nvdsosd name=osd ! %s"
        % (args.uri, width, height, args.uri.startswith("rtsp"),
           HERE / "config_infer_primary.txt", args.sink or encode % args.output)
    )  # fmt: skip
    pad = pipeline.get_by_name("osd").get_static_pad("sink")
    pad.add_probe(Gst.PadProbeType.BUFFER, probe, skeleton)
    loop, bus = GLib.MainLoop(), pipeline.get_bus()
    failed: List[str] = []

    def heard(_: Any, message: Any) -> None:
        if message.type == Gst.MessageType.ERROR:
            failed.append("%s (%s)" % message.parse_error())
        if message.type in (Gst.MessageType.ERROR, Gst.MessageType.EOS):
            loop.quit()

    bus.add_signal_watch()
    bus.connect("message", heard)
    pipeline.set_state(Gst.State.PLAYING)
    try:
        loop.run()
    except KeyboardInterrupt:  # let the muxer of the file write its end
        pipeline.send_event(Gst.Event.new_eos())
        bus.timed_pop_filtered(5 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    finally:
        pipeline.set_state(Gst.State.NULL)
    if failed:
        sys.exit("error: " + " ".join(failed[0].split()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", required=True, help="file:///... or rtsp://...")
    parser.add_argument("--output", default="poses.mp4", help="video that is written [poses.mp4]")
    parser.add_argument("--sink", help="GStreamer elements instead, such as nveglglessink")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
