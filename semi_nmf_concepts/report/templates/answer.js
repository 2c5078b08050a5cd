// Starts the page of an answer once its data are unpacked.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  Answer.load().then(function (data) {
    Answer.view.use(data);
    Answer.heads.start(data);
    Answer.relevancy.start(data);
    Answer.graph.start(data);
    Answer.concepts.start(data);
    Answer.saving.start(data);
    Answer.view.start();
    document.documentElement.classList.add("ready");
  }).catch(function (error) {
    const status = document.getElementById("status");
    status.textContent = typeof DecompressionStream === "undefined"
      ? "This browser cannot unpack the maps; Chrome 80, Firefox 113, Safari 16.4 and later can."
      : "The maps could not be read: " + error.message;
    throw error;
  });
});
